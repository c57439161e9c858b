/*
 * The console: the first 16550 UART (National Semiconductor PC16550D), with interrupts for
 * what is received so that the processor can sleep.
 */
#include "monitor.h"

#define COM1 0x3f8
#define RBR_THR (COM1 + 0)
#define DLL (COM1 + 0)
#define IER (COM1 + 1)
#define DLM (COM1 + 1)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define IER_RDA (1 << 0)
#define FCR_ENABLE_CLEAR 0x07
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS_OUT2 0x0b
#define LSR_DR (1 << 0)
#define LSR_THRE (1 << 5)
#define DIVISOR_115200 1

#define RING 256
static char received[RING];
static volatile unsigned head, tail;

void console_init(void) {
  outb(LCR, LCR_DLAB);
  outb(DLL, DIVISOR_115200);
  outb(DLM, 0);
  outb(LCR, LCR_8N1);
  outb(FCR, FCR_ENABLE_CLEAR);
  outb(MCR, MCR_DTR_RTS_OUT2);
  outb(IER, IER_RDA);
}

/* Called by the uart's interrupt. */
void console_received(void) {
  while (inb(LSR) & LSR_DR) {
    char c = inb(RBR_THR);
    if (head - tail < RING) received[head++ % RING] = c;
  }
}

static void send(char c) {
  while (!(inb(LSR) & LSR_THRE)) {
  }
  outb(RBR_THR, c);
}

void put_char(char c) {
  if (c == '\n') send('\r');
  send(c);
}

void put_string(const char *text) {
  while (*text) put_char(*text++);
}

void put_decimal(uint64_t value, int width) {
  char digits[20];
  int n = 0;
  do {
    digits[n++] = '0' + value % 10;
    value /= 10;
  } while (value);
  for (; width > n; width--) put_char(' ');
  while (n) put_char(digits[--n]);
}

void put_hex(uint64_t value, int digits) {
  while (digits--) put_char("0123456789abcdef"[value >> (4 * digits) & 15]);
}

static char next_char(void) {
  /* STI takes effect after HLT has begun: an interrupt between the two is not lost. */
  __asm__ volatile("cli");
  while (head == tail) __asm__ volatile("sti; hlt; cli" ::: "memory");
  char c = received[tail++ % RING];
  __asm__ volatile("sti");
  return c;
}

void read_line(char *line, size_t size) {
  size_t n = 0;
  for (;;) {
    char c = next_char();
    if (c == '\r' || c == '\n') break;
    if (c == '\b' || c == 0x7f) {
      if (n) {
        n--;
        put_string("\b \b");
      }
    } else if (c >= ' ' && c < 0x7f && n + 1 < size) {
      line[n++] = c;
      put_char(c);
    }
  }
  line[n] = 0;
  put_char('\n');
}
