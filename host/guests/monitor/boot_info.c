/*
 * What the loader said of the machine: hvm_start_info (Xen, start_info.h) or the multiboot
 * information (Multiboot 0.6.96, section 3.3).
 */
#include "monitor.h"

#define HVM_START_MAGIC 0x336ec578
#define MULTIBOOT_MAGIC 0x2badb002
#define MAX_REGIONS 64
#define MAX_MODULES 16

struct region {
  uint64_t base, length;
  uint32_t type;
};
struct module {
  uint64_t base, length;
  const char *text;
};

static struct region regions[MAX_REGIONS];
static unsigned region_count;
static struct module modules[MAX_MODULES];
static unsigned module_count;
static const char *command = "";
static uint64_t rsdp;
static const char *protocol = "no boot protocol";

struct start_info {
  uint32_t magic, version, flags, nr_modules;
  uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
  uint32_t memmap_entries, reserved;
};
struct start_module {
  uint64_t paddr, size, cmdline_paddr, reserved;
};
struct start_region {
  uint64_t addr, size;
  uint32_t type, reserved;
};

static void add_region(uint64_t base, uint64_t length, uint32_t type) {
  if (region_count < MAX_REGIONS) regions[region_count++] = (struct region){base, length, type};
}
static void add_module(uint64_t base, uint64_t length, uint64_t text) {
  if (module_count < MAX_MODULES)
    modules[module_count++] = (struct module){base, length, text ? (const char *)text : ""};
}

static void read_start_info(const struct start_info *info) {
  protocol = "PVH";
  rsdp = info->rsdp_paddr;
  if (info->cmdline_paddr) command = (const char *)info->cmdline_paddr;
  const struct start_module *module = (const void *)info->modlist_paddr;
  for (uint32_t i = 0; i < info->nr_modules; i++)
    add_module(module[i].paddr, module[i].size, module[i].cmdline_paddr);
  if (info->version < 1) return;
  const struct start_region *region = (const void *)info->memmap_paddr;
  for (uint32_t i = 0; i < info->memmap_entries; i++)
    add_region(region[i].addr, region[i].size, region[i].type);
}

#define MB_FLAGS 0
#define MB_CMDLINE 16
#define MB_MODS_COUNT 20
#define MB_MODS_ADDR 24
#define MB_MMAP_LENGTH 44
#define MB_MMAP_ADDR 48
#define MB_HAS_CMDLINE (1 << 2)
#define MB_HAS_MODS (1 << 3)
#define MB_HAS_MMAP (1 << 6)

static void read_multiboot(uint64_t info) {
  uint32_t flags = *at32(info + MB_FLAGS);
  protocol = "multiboot";
  if (flags & MB_HAS_CMDLINE) command = (const char *)(uint64_t)*at32(info + MB_CMDLINE);
  if (flags & MB_HAS_MODS) {
    uint64_t module = *at32(info + MB_MODS_ADDR);
    for (uint32_t n = *at32(info + MB_MODS_COUNT); n; n--, module += 16)
      add_module(*at32(module), *at32(module + 4) - *at32(module), *at32(module + 8));
  }
  if (flags & MB_HAS_MMAP) {
    uint64_t entry = *at32(info + MB_MMAP_ADDR);
    uint64_t end = entry + *at32(info + MB_MMAP_LENGTH);
    for (; entry < end; entry += *at32(entry) + 4)
      add_region(*at64(entry + 4), *at64(entry + 12), *at32(entry + 20));
  }
}

void boot_info_init(uint32_t magic, uint32_t info) {
  if (magic == MULTIBOOT_MAGIC)
    read_multiboot(info);
  else if (info && *at32(info) == HVM_START_MAGIC)
    read_start_info((const void *)(uint64_t)info);
}

const char *command_line(void) { return command; }

/* Where firmware leaves the RSDP (ACPI 6.4, section 5.2.5.1), if the loader did not say. */
#define BIOS_AREA 0xe0000
#define BIOS_AREA_END 0x100000
#define RSDP_ALIGNMENT 16

uint64_t find_rsdp(void) {
  if (rsdp) return rsdp;
  for (uint64_t at = BIOS_AREA; at < BIOS_AREA_END; at += RSDP_ALIGNMENT)
    if (bytes_equal((const void *)at, "RSD PTR ", 8)) return at;
  return 0;
}

static const char *type_name(uint32_t type) {
  switch (type) {
    case 1: return "RAM";
    case 2: return "reserved";
    case 3: return "ACPI";
    case 4: return "ACPI NVS";
    case 5: return "unusable";
    default: return "unknown";
  }
}

void show_memory(void) {
  put_string("memory map (");
  put_string(protocol);
  put_string(")\n");
  uint64_t ram = 0;
  for (unsigned i = 0; i < region_count; i++) {
    put_string("  ");
    put_hex(regions[i].base, 12);
    put_string("-");
    put_hex(regions[i].base + regions[i].length - 1, 12);
    put_string(" ");
    put_string(type_name(regions[i].type));
    put_char('\n');
    if (regions[i].type == 1) ram += regions[i].length;
  }
  put_string("  RAM: ");
  put_decimal(ram >> 10, 0);
  put_string(" KiB\n");
  for (unsigned i = 0; i < module_count; i++) {
    put_string("  module at ");
    put_hex(modules[i].base, 12);
    put_string(", ");
    put_decimal(modules[i].length, 0);
    put_string(" bytes: ");
    put_string(modules[i].text);
    put_char('\n');
  }
}
