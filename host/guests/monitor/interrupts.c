/*
 * Interrupts through the two 8259A PICs, delivered by the local APIC's LINT0 as ExtINT
 * (Intel SDM vol. 3, section 11.5.1; MultiProcessor Specification 1.4, section 3.6.2.2), and
 * exceptions, which end the monitor.
 */
#include "monitor.h"

#define PIC1 0x20
#define PIC2 0xa0
#define ICW1_INIT_ICW4 0x11
#define ICW4_8086 0x01
#define OCW2_EOI 0x20
#define PIC2_CASCADE 2
#define IRQ_BASE 32
#define IRQ_COUNT 16
#define IRQ_TIMER 0
#define IRQ_UART 4
#define VECTORS (IRQ_BASE + IRQ_COUNT)
#define STUB_SIZE 16

#define LAPIC 0xfee00000
#define LAPIC_ID (LAPIC + 0x20)
#define LAPIC_VERSION (LAPIC + 0x30)
#define LAPIC_SVR (LAPIC + 0xf0)
#define LAPIC_LVT_LINT0 (LAPIC + 0x350)
#define SVR_ENABLE_FF 0x1ff
#define LVT_EXTINT 0x700
#define IOAPIC 0xfec00000
#define IOREGSEL (IOAPIC + 0x00)
#define IOWIN (IOAPIC + 0x10)
#define IOAPICVER 1
#define IOREDTBL 0x10

#define PIT_COMMAND 0x43
#define PIT_COUNTER0 0x40
#define PIT_COUNTER0_MODE2 0x34

#define CODE64 0x08
#define GATE_INTERRUPT 0x8e

struct gate {
  uint16_t offset_low, selector;
  uint8_t ist, type;
  uint16_t offset_middle;
  uint32_t offset_high, reserved;
};

struct frame {
  uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

extern const char stubs[];
static struct gate idt[VECTORS];
static volatile uint64_t counts[IRQ_COUNT];

static void fatal(const struct frame *frame) {
  uint64_t cr2;
  __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
  put_string("\nexception ");
  put_decimal(frame->vector, 0);
  put_string(" error ");
  put_hex(frame->error, 8);
  put_string(" at ");
  put_hex(frame->rip, 16);
  put_string(" cr2 ");
  put_hex(cr2, 16);
  put_char('\n');
  halt();
}

/* Called by the stubs. */
void interrupt(const struct frame *frame) {
  if (frame->vector < IRQ_BASE) {
    fatal(frame);
    return;
  }
  unsigned irq = frame->vector - IRQ_BASE;
  counts[irq]++;
  if (irq == IRQ_UART) console_received();
  if (irq >= 8) outb(PIC2, OCW2_EOI);
  outb(PIC1, OCW2_EOI);
}

static void pic_init(uint16_t port, uint8_t base, uint8_t cascade, uint8_t mask) {
  outb(port, ICW1_INIT_ICW4);
  outb(port + 1, base);
  outb(port + 1, cascade);
  outb(port + 1, ICW4_8086);
  outb(port + 1, mask);
}

void interrupts_init(void) {
  for (unsigned i = 0; i < VECTORS; i++) {
    uint64_t stub = (uint64_t)stubs + i * STUB_SIZE;
    idt[i] = (struct gate){stub, CODE64, 0, GATE_INTERRUPT, stub >> 16, stub >> 32, 0};
  }
  struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof idt - 1, (uint64_t)idt};
  __asm__ volatile("lidt %0" : : "m"(pointer));

  pic_init(PIC1, IRQ_BASE, 1 << PIC2_CASCADE, (uint8_t)~(1 << IRQ_TIMER | 1 << IRQ_UART));
  pic_init(PIC2, IRQ_BASE + 8, PIC2_CASCADE, 0xff);
  *at32(LAPIC_SVR) = SVR_ENABLE_FF;
  *at32(LAPIC_LVT_LINT0) = LVT_EXTINT;
  /* The largest divisor, written as 0: 18.2 ticks a second. */
  outb(PIT_COMMAND, PIT_COUNTER0_MODE2);
  outb(PIT_COUNTER0, 0);
  outb(PIT_COUNTER0, 0);
  __asm__ volatile("sti");
}

static uint32_t ioapic_read(uint32_t index) {
  *at32(IOREGSEL) = index;
  return *at32(IOWIN);
}

void show_interrupts(void) {
  static const char *const names[IRQ_COUNT] = {
      [IRQ_TIMER] = "timer (PIT)", [1] = "keyboard", [PIC2_CASCADE] = "cascade",
      [IRQ_UART] = "uart",         [8] = "rtc",      [9] = "acpi"};
  put_string("interrupts (8259A)\n");
  for (unsigned i = 0; i < IRQ_COUNT; i++) {
    bool masked = inb((i < 8 ? PIC1 : PIC2) + 1) >> (i & 7) & 1;
    if (masked && !counts[i]) continue;
    put_string("  IRQ ");
    put_decimal(i, 2);
    put_decimal(counts[i], 10);
    put_string(masked ? "  masked " : "  enabled ");
    put_string(names[i] ? names[i] : "");
    put_char('\n');
  }
  put_string("local APIC ");
  put_decimal(*at32(LAPIC_ID) >> 24, 0);
  put_string(": version ");
  put_hex(*at32(LAPIC_VERSION) & 0xff, 2);
  put_string(", ");
  put_decimal((*at32(LAPIC_VERSION) >> 16 & 0xff) + 1, 0);
  put_string(" LVT entries\n");
  uint32_t version = ioapic_read(IOAPICVER);
  unsigned pins = (version >> 16 & 0xff) + 1, open = 0;
  for (unsigned i = 0; i < pins; i++) open += !(ioapic_read(IOREDTBL + 2 * i) >> 16 & 1);
  put_string("I/O APIC: version ");
  put_hex(version & 0xff, 2);
  put_string(", ");
  put_decimal(pins, 0);
  put_string(" pins, ");
  put_decimal(open, 0);
  put_string(" unmasked\n");
}
