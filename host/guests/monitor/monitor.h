/* What the monitor's parts share. */
#ifndef MONITOR_H
#define MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ports. */
static inline void outb(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t value) {
  __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t value) {
  __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint8_t inb(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline uint32_t inl(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

/* Memory-mapped registers, and anything else at a physical address. */
static inline volatile uint8_t *at8(uint64_t pa) { return (volatile uint8_t *)pa; }
static inline volatile uint16_t *at16(uint64_t pa) { return (volatile uint16_t *)pa; }
static inline volatile uint32_t *at32(uint64_t pa) { return (volatile uint32_t *)pa; }
static inline volatile uint64_t *at64(uint64_t pa) { return (volatile uint64_t *)pa; }

/* console.c: the uart. */
void console_init(void);
void console_received(void);
void put_char(char c);
void put_string(const char *text);
void put_decimal(uint64_t value, int width);
void put_hex(uint64_t value, int digits);
/* Waits for a line; interrupts are on meanwhile. */
void read_line(char *line, size_t size);

/* text.c: what a C library would have. */
bool same(const char *a, const char *b);
bool parse_number(const char *text, uint64_t *value);
bool bytes_equal(const void *a, const void *b, size_t size);

/* boot_info.c: what the loader said. */
void boot_info_init(uint32_t magic, uint32_t info);
void show_memory(void);
const char *command_line(void);
/* The RSDP's address, 0 if there is none. */
uint64_t find_rsdp(void);

/* interrupts.c. */
void interrupts_init(void);
void show_interrupts(void);

/* pci.c. */
#define PCI_VENDOR_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_CAPABILITIES 0x34
#define PCI_COMMAND_MEMORY (1 << 1)
#define PCI_COMMAND_MASTER (1 << 2)

uint32_t pci_read(uint32_t function, uint32_t offset);
void pci_write(uint32_t function, uint32_t offset, uint32_t value);
/* The first function with this vendor and one of two device numbers; false if there is none. */
bool pci_find(uint16_t vendor, uint16_t device, uint16_t other, uint32_t *function);
/* The address of a memory BAR. */
uint64_t pci_bar(uint32_t function, uint32_t index);
void pci_init(void);
void show_pci(void);

/* disk.c: the first virtio block device. */
void show_sector(uint64_t sector);

/* power.c. */
void halt(void);
void reboot(void);
void power_off(void);

#endif
