/*
 * Reads sectors from the first virtio block device (virtio 1.2, sections 2.7, 4.1 and 5.2), by
 * the modern PCI interface and without interrupts: a request is waited for.
 */
#include "monitor.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_BLK 0x1042
#define VIRTIO_BLK_TRANSITIONAL 0x1001
#define CAP_VENDOR 0x09
#define CFG_COMMON 1
#define CFG_NOTIFY 2
#define CFG_DEVICE 4
/* struct virtio_pci_cap, section 4.1.4. */
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_NOTIFY_MULTIPLIER 16
/* struct virtio_pci_common_cfg, section 4.1.4.3. */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE 0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE 0x0c
#define COMMON_STATUS 0x14
#define COMMON_QUEUE_SELECT 0x16
#define COMMON_QUEUE_SIZE 0x18
#define COMMON_QUEUE_ENABLE 0x1c
#define COMMON_QUEUE_NOTIFY_OFF 0x1e
#define COMMON_QUEUE_DESC 0x20
#define COMMON_QUEUE_DRIVER 0x28
#define COMMON_QUEUE_DEVICE 0x30
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define FEATURE_VERSION_1_HIGH 1 /* bit 32 */
#define DESC_NEXT 1
#define DESC_WRITE 2
#define AVAIL_NO_INTERRUPT 1
#define BLK_T_IN 0
#define SECTOR 512
#define QUEUE 4

struct desc {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};
static struct desc descriptors[QUEUE] __attribute__((aligned(16)));
static struct {
  uint16_t flags, index, ring[QUEUE], used_event;
} available __attribute__((aligned(2)));
static struct {
  uint16_t flags;
  volatile uint16_t index;
  struct {
    uint32_t id, length;
  } ring[QUEUE];
  uint16_t avail_event;
} used __attribute__((aligned(4)));

static struct {
  uint32_t type, reserved;
  uint64_t sector;
} request;
static uint8_t data[SECTOR];
static volatile uint8_t status;

static uint64_t common, notify, config;
static bool ready;

static void set64(uint64_t at, const void *pointer) {
  *at32(at) = (uint32_t)(uint64_t)pointer;
  *at32(at + 4) = (uint64_t)pointer >> 32;
}

/* Finds the device and brings it up; tells why it could not. */
static const char *disk_init(void) {
  uint32_t function, multiplier = 0;
  if (!pci_find(VIRTIO_VENDOR, VIRTIO_BLK, VIRTIO_BLK_TRANSITIONAL, &function))
    return "no virtio block device";
  pci_write(function, PCI_COMMAND,
            (pci_read(function, PCI_COMMAND) & 0xffff) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  uint32_t cap = pci_read(function, PCI_CAPABILITIES) & 0xfc;
  for (; cap; cap = pci_read(function, cap + 1) & 0xfc) {
    if ((pci_read(function, cap) & 0xff) != CAP_VENDOR) continue;
    uint64_t address = pci_bar(function, pci_read(function, cap + CAP_BAR) & 0xff) +
                       pci_read(function, cap + CAP_OFFSET);
    switch (pci_read(function, cap + CAP_TYPE) & 0xff) {
      case CFG_COMMON: common = address; break;
      case CFG_NOTIFY:
        notify = address;
        multiplier = pci_read(function, cap + CAP_NOTIFY_MULTIPLIER);
        break;
      case CFG_DEVICE: config = address; break;
    }
  }
  if (!common || !notify || !config) return "the virtio block device has no modern interface";
  if ((common | notify | config) >> 32) return "the virtio block device lies above 4 GiB";

  *at8(common + COMMON_STATUS) = 0;
  while (*at8(common + COMMON_STATUS)) {
  }
  *at8(common + COMMON_STATUS) = STATUS_ACKNOWLEDGE;
  *at8(common + COMMON_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
  *at32(common + COMMON_DRIVER_FEATURE_SELECT) = 0;
  *at32(common + COMMON_DRIVER_FEATURE) = 0;
  *at32(common + COMMON_DRIVER_FEATURE_SELECT) = 1;
  *at32(common + COMMON_DRIVER_FEATURE) = FEATURE_VERSION_1_HIGH;
  uint8_t agreed = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
  *at8(common + COMMON_STATUS) = agreed;
  if (!(*at8(common + COMMON_STATUS) & STATUS_FEATURES_OK))
    return "the virtio block device refuses the driver's features";
  *at16(common + COMMON_QUEUE_SELECT) = 0;
  if (*at16(common + COMMON_QUEUE_SIZE) < QUEUE) return "the virtio block device has no queue";
  *at16(common + COMMON_QUEUE_SIZE) = QUEUE;
  set64(common + COMMON_QUEUE_DESC, descriptors);
  set64(common + COMMON_QUEUE_DRIVER, &available);
  set64(common + COMMON_QUEUE_DEVICE, &used);
  notify += (uint64_t)*at16(common + COMMON_QUEUE_NOTIFY_OFF) * multiplier;
  *at16(common + COMMON_QUEUE_ENABLE) = 1;
  *at8(common + COMMON_STATUS) = agreed | STATUS_DRIVER_OK;
  ready = true;
  return NULL;
}

static bool read_sector(uint64_t sector) {
  request.type = BLK_T_IN;
  request.sector = sector;
  status = 0xff;
  descriptors[0] = (struct desc){(uint64_t)&request, sizeof request, DESC_NEXT, 1};
  descriptors[1] = (struct desc){(uint64_t)data, SECTOR, DESC_NEXT | DESC_WRITE, 2};
  descriptors[2] = (struct desc){(uint64_t)&status, 1, DESC_WRITE, 0};
  available.flags = AVAIL_NO_INTERRUPT;
  available.ring[available.index % QUEUE] = 0;
  uint16_t before = used.index;
  __asm__ volatile("" ::: "memory");
  available.index++;
  __asm__ volatile("mfence" ::: "memory");
  *at16(notify) = 0;
  while (used.index == before) __asm__ volatile("pause" ::: "memory");
  return status == 0;
}

void show_sector(uint64_t sector) {
  const char *fault = ready ? NULL : disk_init();
  if (fault) {
    put_string(fault);
    put_char('\n');
    return;
  }
  uint64_t capacity = *at32(config) | (uint64_t)*at32(config + 4) << 32;
  if (sector >= capacity) {
    put_string("the disk has ");
    put_decimal(capacity, 0);
    put_string(" sectors\n");
    return;
  }
  if (!read_sector(sector)) {
    put_string("the disk reports an error\n");
    return;
  }
  for (unsigned line = 0; line < SECTOR; line += 16) {
    put_hex(line, 3);
    put_string("  ");
    for (unsigned i = 0; i < 16; i++) {
      put_hex(data[line + i], 2);
      put_char(' ');
    }
    put_char(' ');
    for (unsigned i = 0; i < 16; i++) {
      uint8_t c = data[line + i];
      put_char(c >= ' ' && c < 0x7f ? c : '.');
    }
    put_char('\n');
  }
}
