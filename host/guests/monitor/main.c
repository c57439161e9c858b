/*
 * The monitor: a small guest that shows what machine it runs on. It runs the commands on the
 * kernel's command line, separated by semicolons, and then asks for more.
 */
#include "monitor.h"

#define LINE 128

static void help(void) {
  put_string(
      "help      this list\n"
      "mem       memory map and modules\n"
      "pci       PCI devices\n"
      "irq       interrupts\n"
      "read N    sector N of the virtio disk\n"
      "halt      stop the processor\n"
      "reboot    reset the machine\n"
      "poweroff  switch the machine off\n");
}

static void run(char *line) {
  while (*line == ' ') line++;
  size_t n = 0;
  while (line[n]) n++;
  while (n && line[n - 1] == ' ') line[--n] = 0;
  char *argument = line;
  while (*argument && *argument != ' ') argument++;
  while (*argument == ' ') *argument++ = 0;

  uint64_t number;
  if (!*line) return;
  if (same(line, "read") && parse_number(argument, &number))
    show_sector(number);
  else if (same(line, "read"))
    put_string("read takes the number of a sector\n");
  else if (*argument) {
    put_string(line);
    put_string(" takes no argument\n");
  } else if (same(line, "help"))
    help();
  else if (same(line, "mem"))
    show_memory();
  else if (same(line, "pci"))
    show_pci();
  else if (same(line, "irq"))
    show_interrupts();
  else if (same(line, "halt"))
    halt();
  else if (same(line, "reboot"))
    reboot();
  else if (same(line, "poweroff"))
    power_off();
  else {
    put_string(line);
    put_string(": no such command; try help\n");
  }
}

static void run_command_line(const char *text) {
  char line[LINE];
  while (*text) {
    size_t n = 0;
    for (; *text && *text != ';'; text++)
      if (n + 1 < LINE) line[n++] = *text;
    line[n] = 0;
    if (*text) text++;
    run(line);
  }
}

/* Called by boot.S. */
void monitor(uint32_t magic, uint32_t info) {
  char line[LINE];
  boot_info_init(magic, info);
  console_init();
  interrupts_init();
  pci_init();
  put_string("Diapause monitor; help lists the commands\n");
  run_command_line(command_line());
  for (;;) {
    put_string("> ");
    read_line(line, LINE);
    run(line);
  }
}
