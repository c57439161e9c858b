# Goes from real through protected to long mode, in each of them interrupted by the PIT a number of times, and writes
# a letter to the first UART at each tick (snapshot_test.ts). It is a firmware image from 0xF0000 on.
# Made with: as -o ticks.o ticks.s && ld -Ttext 0xf0000 --oformat binary -o ticks.bin ticks.o
.intel_syntax noprefix
.equ BASE, 0xf0000
.equ STACK, 0x8000
.equ TICKS, 0x600               # ticks in this mode
.equ SUM, 0x608                 # what the work of all modes comes to
.equ DATA, 0x700                # 256 bytes that the work goes over
.equ PML4, 0x10000
.equ PERIOD, 80                 # of the PIT, about 67 microseconds
.equ EACH, 4                    # ticks in each mode
.equ LINGER, 4000               # turns of a loop in the handler
.equ UART, 0x3f8
.macro outb port, value
  mov al, \value
  out \port, al
.endm
.global _start
.code16
_start:
  cli
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, STACK
  mov word ptr [0x20*4], offset tick16 - BASE
  mov word ptr [0x20*4+2], 0xf000
  outb 0x20, 0x11               # both 8259s: edges, cascade, ICW4
  outb 0xa0, 0x11
  outb 0x21, 0x20
  outb 0xa1, 0x28
  outb 0x21, 4
  outb 0xa1, 2
  outb 0x21, 1
  outb 0xa1, 1
  outb 0x21, 0xfe               # IRQ 0 only
  outb 0xa1, 0xff
  outb 0x43, 0x34               # counter 0: both bytes, mode 2
  outb 0x40, PERIOD
  outb 0x40, 0
  mov dword ptr [TICKS], 0
  fninit
  fld1
  sti
work16:
  mov si, DATA
  mov cx, 256
1: lodsb
  add [SUM], al
  rol dword ptr [SUM], 3
  inc byte ptr [si-1]
  loop 1b
  fldpi
  faddp
  cmp dword ptr [TICKS], EACH
  jb work16
  cli
  lgdt cs:[gdtr - BASE]
  lidt cs:[idtr32 - BASE]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  .byte 0x66, 0xea              # far jump with a 32-bit offset
  .long protected
  .word 0x08
tick16:
  push ax
  push cx
  push dx
  mov cx, LINGER
1: inc dword ptr [SUM+4]
  loop 1b
  inc dword ptr [TICKS]
  mov dx, UART
  outb dx, 'r'
  outb 0x20, 0x20               # end of interrupt
  mov cx, LINGER / 4
1: loop 1b
  pop dx
  pop cx
  pop ax
  iret

.code32
protected:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov esp, STACK
  mov dword ptr [TICKS], 0
  sti
work32:
  mov esi, DATA
  mov ecx, 256
1: lodsb
  add [SUM], al
  rol dword ptr [SUM], 5
  inc byte ptr [esi-1]
  loop 1b
  fldl2t
  fmulp
  cmp dword ptr [TICKS], EACH
  jb work32
  cli
  mov eax, cr4                  # PAE, OSFXSR
  or eax, 0x220
  mov cr4, eax
  mov dword ptr [PML4], PML4 + 0x1007
  mov dword ptr [PML4+0x1000], PML4 + 0x2007
  mov dword ptr [PML4+0x2000], 0x87
  mov eax, PML4
  mov cr3, eax
  mov ecx, 0xc0000080           # EFER: LME
  rdmsr
  or eax, 0x100
  wrmsr
  lidt [idtr64]
  mov eax, cr0
  or eax, 0x80000000
  mov cr0, eax
  ljmp 0x18, offset long
tick32:
  push eax
  push ecx
  push edx
  mov ecx, LINGER
1: inc dword ptr [SUM+4]
  loop 1b
  inc dword ptr [TICKS]
  mov edx, UART
  outb dx, 'p'
  outb 0x20, 0x20
  mov ecx, LINGER / 4
1: loop 1b
  pop edx
  pop ecx
  pop eax
  iretd

.code64
long:
  mov esp, STACK
  mov dword ptr [TICKS], 0
  mov eax, 0x3f800000           # 1.0
  movd xmm0, eax
  sti
work64:
  mov rsi, DATA
  mov rcx, 256
1: lodsb
  add [SUM], al
  rol qword ptr [SUM], 7
  inc byte ptr [rsi-1]
  loop 1b
  addps xmm0, xmm0
  pshufd xmm1, xmm0, 0x93
  addps xmm0, xmm1
  cmp dword ptr [TICKS], EACH
  jb work64
  cli
1: jmp 1b
tick64:
  push rax
  push rcx
  push rdx
  mov rcx, LINGER
1: inc dword ptr [SUM+4]
  loop 1b
  inc dword ptr [TICKS]
  mov edx, UART
  outb dx, 'l'
  outb 0x20, 0x20
  mov rcx, LINGER / 4
1: loop 1b
  pop rdx
  pop rcx
  pop rax
  iretq

.balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff      # 08 32-bit code
  .quad 0x00cf92000000ffff      # 10 data
  .quad 0x00af9a000000ffff      # 18 64-bit code
gdt_end:
idt32:
  .fill 0x20, 8, 0
  .word tick32 - BASE, 0x08, 0x8e00, BASE >> 16
idt32_end:
.balign 8
idt64:
  .fill 2*0x20, 8, 0
  .word tick64 - BASE, 0x18, 0x8e00, BASE >> 16
  .quad 0
idt64_end:
gdtr:
  .word gdt_end - gdt - 1
  .long gdt
idtr32:
  .word idt32_end - idt32 - 1
  .long idt32
idtr64:
  .word idt64_end - idt64 - 1
  .long idt64
