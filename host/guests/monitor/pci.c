/*
 * PCI by configuration mechanism 1 (PCI Local Bus 3.0, section 3.2.2.3.2). Where no firmware
 * has done so, BARs are given addresses (section 6.2.5.1).
 */
#include "monitor.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define CONFIG_ENABLE (1u << 31)
#define BUSES 256
#define SLOTS 32
#define FUNCTIONS 8
#define CLASS_REVISION 0x08
#define HEADER 0x0c
#define HEADER_MULTIFUNCTION (1 << 23)
#define HEADER_TYPE(value) ((value) >> 16 & 0x7f)
#define BAR0 0x10
#define BARS 6
#define BAR_IO (1 << 0)
#define BAR_64 (1 << 2)
#define BAR_MEMORY_MASK (~0xfu)
#define BAR_IO_MASK (~0x3u)
#define INTERRUPT 0x3c
#define COMMAND_IO (1 << 0)
#define NO_DEVICE 0xffff
/* From here BARs are given addresses: the hole above low RAM, and ports above the fixed ones. */
#define MEMORY_HOLE 0xc0000000
#define IO_HOLE 0xc000

static uint64_t next_memory = MEMORY_HOLE, next_io = IO_HOLE;

/* A function is named by its bus, device and function number, as in CONFIG_ADDRESS. */
uint32_t pci_read(uint32_t function, uint32_t offset) {
  outl(CONFIG_ADDRESS, CONFIG_ENABLE | function << 8 | (offset & 0xfc));
  return inl(CONFIG_DATA) >> (offset & 3) * 8;
}

void pci_write(uint32_t function, uint32_t offset, uint32_t value) {
  outl(CONFIG_ADDRESS, CONFIG_ENABLE | function << 8 | (offset & 0xfc));
  outl(CONFIG_DATA, value);
}

static void each_function(void (*visit)(uint32_t function)) {
  for (uint32_t slot = 0; slot < BUSES * SLOTS; slot++) {
    uint32_t first = slot * FUNCTIONS;
    if ((pci_read(first, PCI_VENDOR_ID) & NO_DEVICE) == NO_DEVICE) continue;
    unsigned count = pci_read(first, HEADER) & HEADER_MULTIFUNCTION ? FUNCTIONS : 1;
    for (unsigned i = 0; i < count; i++)
      if ((pci_read(first + i, PCI_VENDOR_ID) & NO_DEVICE) != NO_DEVICE) visit(first + i);
  }
}

static uint16_t wanted_vendor, wanted_device, other_device;
static uint32_t found;
static void match(uint32_t function) {
  uint32_t id = pci_read(function, PCI_VENDOR_ID);
  if (found == UINT32_MAX && (id & 0xffff) == wanted_vendor &&
      (id >> 16 == wanted_device || id >> 16 == other_device))
    found = function;
}

bool pci_find(uint16_t vendor, uint16_t device, uint16_t other, uint32_t *function) {
  wanted_vendor = vendor, wanted_device = device, other_device = other;
  found = UINT32_MAX;
  each_function(match);
  *function = found;
  return found != UINT32_MAX;
}

uint64_t pci_bar(uint32_t function, uint32_t index) {
  uint32_t low = pci_read(function, BAR0 + index * 4);
  if (low & BAR_IO) return low & BAR_IO_MASK;
  uint64_t base = low & BAR_MEMORY_MASK;
  if (low & BAR_64) base |= (uint64_t)pci_read(function, BAR0 + index * 4 + 4) << 32;
  return base;
}

static uint64_t take(uint64_t *next, uint64_t size) {
  uint64_t base = (*next + size - 1) & ~(size - 1);
  *next = base + size;
  return base;
}

/* Sizes a function's BARs and places those that have no address. */
static void place_bars(uint32_t function) {
  if (HEADER_TYPE(pci_read(function, HEADER))) return;
  uint32_t command = pci_read(function, PCI_COMMAND) & 0xffff;
  for (unsigned i = 0; i < BARS; i++) {
    uint32_t at = BAR0 + i * 4;
    uint32_t before = pci_read(function, at);
    if (before & BAR_IO ? before & BAR_IO_MASK : before & BAR_MEMORY_MASK) {
      if (!(before & BAR_IO) && before & BAR_64) i++;
      continue;
    }
    pci_write(function, at, ~0u);
    uint32_t mask = pci_read(function, at);
    if (!mask) continue;
    if (mask & BAR_IO) {
      uint32_t size = -(mask & BAR_IO_MASK) & 0xffff;
      pci_write(function, at, take(&next_io, size));
      command |= COMMAND_IO;
    } else {
      uint32_t size = -(mask & BAR_MEMORY_MASK);
      if (size) pci_write(function, at, take(&next_memory, size));
      command |= PCI_COMMAND_MEMORY;
      if (mask & BAR_64) {
        pci_write(function, at + 4, 0);
        i++;
      }
    }
  }
  pci_write(function, PCI_COMMAND, command);
}

void pci_init(void) { each_function(place_bars); }

static void show_function(uint32_t function) {
  uint32_t id = pci_read(function, PCI_VENDOR_ID);
  put_string("  ");
  put_hex(function >> 8, 2);
  put_char(':');
  put_hex(function >> 3 & (SLOTS - 1), 2);
  put_char('.');
  put_decimal(function & (FUNCTIONS - 1), 0);
  put_string(" ");
  put_hex(id & 0xffff, 4);
  put_char(':');
  put_hex(id >> 16, 4);
  put_string(" class ");
  put_hex(pci_read(function, CLASS_REVISION) >> 8, 6);
  uint32_t pin = pci_read(function, INTERRUPT) >> 8 & 0xff;
  if (pin) {
    put_string(" INT");
    put_char('A' + pin - 1);
  }
  put_char('\n');
  if (HEADER_TYPE(pci_read(function, HEADER))) return;
  for (unsigned i = 0; i < BARS; i++) {
    uint32_t bar = pci_read(function, BAR0 + i * 4);
    if (!bar) continue;
    put_string("    BAR");
    put_decimal(i, 0);
    put_string(bar & BAR_IO ? " I/O " : " memory ");
    put_hex(pci_bar(function, i), bar & BAR_IO ? 4 : 12);
    put_char('\n');
    if (!(bar & BAR_IO) && bar & BAR_64) i++;
  }
}

void show_pci(void) {
  put_string("PCI devices\n");
  each_function(show_function);
}
