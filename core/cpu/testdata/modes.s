# Walks through every mode of the processor and writes a letter to port 0xE9 at each stage (modes_test.ts).
# Made with: as -o modes.o modes.s && ld -Ttext 0x1000 --oformat binary -o modes.bin modes.o
.intel_syntax noprefix
.equ STACK16, 0x8000
.equ KSTACK, 0x9000
.equ USTACK, 0xa000
.equ ISTACK, 0xb000
.equ PML4, 0x10000
.macro say letter
  push ax
  mov al, \letter
  out 0xe9, al
  pop ax
.endm
.macro say64 letter
  push rax
  mov al, \letter
  out 0xe9, al
  pop rax
.endm
.global _start
.code16
_start:
  mov ax, 0
  mov ds, ax
  mov ss, ax
  mov sp, STACK16
  say 'R'
  mov word ptr [0x40*4], offset ivt_handler
  mov word ptr [0x40*4+2], ax
  int 0x40
  lgdt [gdtr]
  lidt [idtr32]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  .byte 0x66, 0xea            # far jump with a 32-bit offset
  .long protected
  .word 0x08
ivt_handler:
  say 'i'
  iret

.code32
protected:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov esp, KSTACK
  say 'P'
  mov ax, 0x38
  ltr ax
  int 0x41
  push 0x23                   # to CPL 3
  push USTACK
  push 0x3002                 # IOPL 3
  push 0x1b
  push offset user32
  iretd
gate41:
  say 'I'
  iretd
gp32:
  cmp dword ptr [esp], 0
  jne fail
  say 'G'
  add esp, 4
  inc dword ptr [esp]         # over the HLT
  iretd
user32:
  say 'U'
  hlt                         # #GP(0)
  int 0x42
fail:
  mov al, '!'
  out 0xe9, al
1: jmp 1b
gate42:                       # from CPL 3, on the stack of the TSS
  cmp esp, KSTACK - 20
  jne fail
  say 'S'
  mov esp, KSTACK
  push 0                      # GS FS DS ES of virtual-8086 mode
  push 0
  push 0x100                  # DS: base 0x1000
  push 0
  push 0                      # SS
  push STACK16
  push 0x23002                # VM, IOPL 3
  push 0
  push offset v86code
  iretd
.code16
v86code:
  say 'V'
  mov ax, ds
  cmp ax, 0x100
  jne fail16
  int 0x43
fail16:
  mov al, '?'
  out 0xe9, al
1: jmp 1b
.code32
gate43:
  test dword ptr [esp+8], 0x20000
  jz fail
  cmp dword ptr [esp+24], 0x100
  jne fail
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  say 'v'
  mov esp, KSTACK
  mov eax, cr4                # to long mode: 2 MiB identity mapping of the first GiB
  or eax, 0x20
  mov cr4, eax
  mov dword ptr [PML4], PML4 + 0x1007
  mov dword ptr [PML4+0x1000], PML4 + 0x2007
  mov dword ptr [PML4+0x2000], 0x87
  mov eax, PML4
  mov cr3, eax
  mov ecx, 0xc0000080
  rdmsr
  or eax, 0x101
  wrmsr
  mov eax, cr0
  or eax, 0x80000000
  mov cr0, eax
  say 'C'
  ljmp 0x28, offset long
.code64
long:
  say64 'L'
  mov ax, 0x58
  ltr ax
  lidt [idtr64]
  int3
  ud2
  mov rbx, 0x200000
  mov byte ptr [rbx], 1       # #PF: a write to a page that is not there
  mov ecx, 0xc0000081         # STAR: SYSCALL to 0x28 and 0x30, SYSRET to 0x4b and 0x53
  mov eax, 0
  mov edx, 0x00400028
  wrmsr
  mov ecx, 0xc0000082
  mov eax, offset on_syscall
  mov edx, 0
  wrmsr
  mov ecx, 0xc0000084
  mov eax, 0x300
  wrmsr
  push 0x4b
  push USTACK
  push 0x3202
  push 0x53
  push offset user64
  iretq
int3_64:
  say64 'B'
  iretq
ud_64:
  say64 'D'
  add qword ptr [rsp], 2
  iretq
pf_64:
  cmp qword ptr [rsp], 2
  jne fail64
  push rax
  mov rax, cr2
  cmp rax, 0x200000
  pop rax
  jne fail64
  mov dword ptr [PML4+0x2008], 0x200087
  invlpg [rbx]
  say64 'F'
  add rsp, 8
  iretq
fail64:
  mov al, '#'
  out 0xe9, al
1: jmp 1b
user64:
  say64 'u'
  syscall
  cmp r15, 7
  jne fail64
  int 0x80
  lea rbx, [rip + gateptr]
  call fword ptr [rbx]
  say64 'w'
  pushfq
  or qword ptr [rsp], 0x100
  popfq                       # TF: traps after each of the next three
  nop
  nop
  pushfq
  and qword ptr [rsp], ~0x100
  popfq
  nop
  int 0x81
on_syscall:
  say64 's'
  mov r15, 7
  sysretq
int80:
  cmp rsp, ISTACK - 40
  jne fail64
  say64 't'
  iretq
gated:
  say64 'c'
  lretq
db_64:
  say64 'x'
  iretq
int81:
  say64 'H'
  cli
  hlt

.balign 8
gateptr:
  .long 0
  .word 0x6b
.balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff    # 08 code
  .quad 0x00cf92000000ffff    # 10 data
  .quad 0x00cffa000000ffff    # 18 user code
  .quad 0x00cff2000000ffff    # 20 user data
  .quad 0x00af9a000000ffff    # 28 64-bit code
  .quad 0x00cf92000000ffff    # 30 data
  .word 0x67, offset tss32    # 38
  .long 0x8900
  .quad 0                     # 40
  .quad 0x00cff2000000ffff    # 48 user data
  .quad 0x00affa000000ffff    # 50 64-bit user code
  .word 0x67, offset tss64    # 58
  .long 0x8900
  .quad 0
gate68:
  .word offset gated, 0x28, 0xec00, 0
  .quad 0
gdt_end:
gdtr:
  .word gdt_end - gdt - 1
  .long gdt
tss32:
  .long 0, KSTACK, 0x10
  .fill 0x60 - 4, 1, 0
tss64:
  .long 0
  .quad KSTACK, 0, 0, 0
  .quad ISTACK
  .fill 0x3a, 1, 0
  .word 0x68
.macro gate32 handler, access
  .word offset \handler, 0x08, \access, 0
.endm
.macro gate64 handler, access
  .word offset \handler, 0x28, \access, 0
  .quad 0
.endm
.balign 8
idt32:
  .fill 13, 8, 0
  gate32 gp32, 0x8e00
  .fill 0x41 - 14, 8, 0
  gate32 gate41, 0x8e00
  gate32 gate42, 0xee00
  gate32 gate43, 0xee00
idt32_end:
idtr32:
  .word idt32_end - idt32 - 1
  .long idt32
.balign 8
idt64:
  .fill 2*(1), 8, 0
  gate64 db_64, 0x8e00
  .fill 2*(1), 8, 0
  gate64 int3_64, 0xee00
  .fill 2*(2), 8, 0
  gate64 ud_64, 0x8e00
  .fill 2*(14 - 7), 8, 0
  gate64 pf_64, 0x8e00
  .fill 2*(0x80 - 15), 8, 0
  gate64 int80, 0xee01
  gate64 int81, 0xee00
idt64_end:
idtr64:
  .word idt64_end - idt64 - 1
  .quad idt64
