/*
 * Ways to stop: HLT, the reset control register (Intel ICH9, section 13.7.5), and soft off
 * through PM1a_CNT with the sleep type that the DSDT's \_S5 names (ACPI 6.4, section 4.8.3.2.1).
 */
#include "monitor.h"

#define RESET_CONTROL 0xcf9
#define SYS_RST (1 << 1)
#define RST_CPU (1 << 2)
#define RSDP_REVISION 15
#define RSDP_RSDT 16
#define RSDP_XSDT 24
#define TABLE_LENGTH 4
#define TABLE_HEADER 36
#define FADT_DSDT 40
#define FADT_PM1A_CNT 64
#define SLP_EN (1 << 13)
#define SLP_TYP_SHIFT 10
#define PACKAGE_OP 0x12
#define BYTE_PREFIX 0x0a

void halt(void) {
  put_string("halted\n");
  for (;;) __asm__ volatile("cli; hlt");
}

void reboot(void) {
  outb(RESET_CONTROL, SYS_RST);
  outb(RESET_CONTROL, SYS_RST | RST_CPU);
  put_string("the reset control register has no effect\n");
}

static uint64_t find_table(const char *signature) {
  uint64_t rsdp = find_rsdp();
  if (!rsdp) return 0;
  bool wide = *at8(rsdp + RSDP_REVISION) >= 2;
  uint64_t root = wide ? *at64(rsdp + RSDP_XSDT) : *at32(rsdp + RSDP_RSDT);
  uint64_t end = root + *at32(root + TABLE_LENGTH);
  for (uint64_t at = root + TABLE_HEADER; at < end; at += wide ? 8 : 4) {
    uint64_t table = wide ? *at64(at) : *at32(at);
    if (bytes_equal((const void *)table, signature, 4)) return table;
  }
  return 0;
}

/* The first element of Name (_S5, Package () { … }); false if the DSDT has none. */
static bool soft_off_type(uint64_t dsdt, uint8_t *type) {
  uint64_t end = dsdt + *at32(dsdt + TABLE_LENGTH) - 8;
  for (uint64_t at = dsdt + TABLE_HEADER; at < end; at++) {
    if (!bytes_equal((const void *)at, "_S5_", 4) || *at8(at + 4) != PACKAGE_OP) continue;
    /* PkgLength of 1 to 4 bytes, then the number of elements. */
    uint64_t element = at + 5 + (*at8(at + 5) >> 6) + 2;
    *type = *at8(element) == BYTE_PREFIX ? *at8(element + 1) : *at8(element);
    return true;
  }
  return false;
}

void power_off(void) {
  uint64_t fadt = find_table("FACP");
  uint8_t type;
  if (!fadt || !soft_off_type(*at32(fadt + FADT_DSDT), &type)) {
    put_string("ACPI does not say how to power off\n");
    return;
  }
  outw(*at32(fadt + FADT_PM1A_CNT), type << SLP_TYP_SHIFT | SLP_EN);
  put_string("soft off has no effect\n");
}
