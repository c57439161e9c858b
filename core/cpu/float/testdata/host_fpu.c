/*
 * Runs x87 and SSE instructions on this x86-64 CPU for host_fpu.ts: reads records from standard
 * input, each a state and up to 16 bytes of code, executes the code on the state and writes the
 * record back with what became of it.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct record {
  uint8_t fpu[112]; /* FRSTOR and FNSAVE image, 108 bytes used */
  uint8_t memory[128]; /* at RDI */
  uint8_t xmm0[16];
  uint8_t xmm1[16];
  uint64_t rax;
  uint64_t rflags;
  uint32_t mxcsr;
  uint32_t signal; /* out: 0 or the signal that ended the code */
  uint8_t code[16];
} __attribute__((packed));

static sigjmp_buf back;
static struct record r;

static void handler(int signal, siginfo_t *info, void *context) {
  (void)info;
  ucontext_t *u = context;
  r.signal = signal;
  r.mxcsr = u->uc_mcontext.fpregs->mxcsr;
  memcpy(r.xmm0, &u->uc_mcontext.fpregs->_xmm[0], 16);
  siglongjmp(back, 1);
}

int main(void) {
  uint8_t *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 2;
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGFPE, &action, 0);
  sigaction(SIGILL, &action, 0);
  sigaction(SIGSEGV, &action, 0);
  static const uint32_t default_mxcsr = 0x1f80;
  while (fread(&r, sizeof r, 1, stdin) == 1) {
    memcpy(page, r.code, 16);
    page[16] = 0xc3;
    r.signal = 0;
    if (sigsetjmp(back, 0) == 0) {
      __asm__ volatile(
          "frstor %[fpu]\n\t"
          "movups %[x0], %%xmm0\n\t"
          "movups %[x1], %%xmm1\n\t"
          "ldmxcsr %[mxcsr]\n\t"
          "mov %[rax], %%rax\n\t"
          "push %[rflags]\n\t"
          "popf\n\t"
          "call *%[page]\n\t"
          "pushf\n\t"
          "pop %[rflags]\n\t"
          "mov %%rax, %[rax]\n\t"
          "stmxcsr %[mxcsr]\n\t"
          "movups %%xmm0, %[x0]\n\t"
          "movups %%xmm1, %[x1]\n\t"
          "fnsave %[fpu]\n\t"
          "ldmxcsr %[clean]\n\t"
          : [fpu] "+m"(r.fpu), [x0] "+m"(r.xmm0), [x1] "+m"(r.xmm1), [mxcsr] "+m"(r.mxcsr),
            [rax] "+m"(r.rax), [rflags] "+m"(r.rflags)
          : [page] "b"(page), "D"(r.memory), [clean] "m"(default_mxcsr)
          : "rax", "rcx", "rdx", "xmm0", "xmm1", "xmm2", "memory", "cc", "st", "st(1)",
            "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    } else {
      __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(default_mxcsr));
    }
    fwrite(&r, sizeof r, 1, stdout);
  }
  return 0;
}
