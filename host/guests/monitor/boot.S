/*
 * The monitor's entry points and interrupt stubs.
 *
 * PVH (Xen, docs/misc/pvh.pandoc) and multiboot 0.6.96 both enter in flat 32-bit protected
 * mode with EBX pointing at what they say of the machine; EAX tells them apart. From there to
 * long mode: Intel SDM vol. 3, section 9.8.5.
 */

#define CR0_PG          (1 << 31)
#define CR4_PAE         (1 << 5)
#define MSR_EFER        0xc0000080
#define EFER_LME        (1 << 8)
#define PTE_P_RW        3
#define PTE_PS          (1 << 7)
#define LARGE_PAGE      (1 << 21)
#define DIRECTORIES     4
#define ENTRIES         512
#define CODE64          0x08
#define DATA            0x10
#define STACK_SIZE      16384
#define VECTORS         48

#ifdef MULTIBOOT
#define MB_MAGIC        0x1badb002
#define MB_ALIGN_MEMORY 3
        .section .header, "a"
        .balign 4
        .long   MB_MAGIC, MB_ALIGN_MEMORY, -(MB_MAGIC + MB_ALIGN_MEMORY)
#else
#define XEN_ELFNOTE_PHYS32_ENTRY 18
        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 4, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   start
#endif

        .text
        .code32
        .globl  start
start:
        cld
        mov     %eax, %ebp
        mov     $stack_top, %esp

        /* Map the first 4 GiB to themselves: PML4, PDPT, four directories of 2 MiB pages. */
        mov     $pdpt + PTE_P_RW, %eax
        mov     %eax, pml4
        mov     $directories + PTE_P_RW, %eax
        xor     %ecx, %ecx
1:      mov     %eax, pdpt(, %ecx, 8)
        add     $0x1000, %eax
        inc     %ecx
        cmp     $DIRECTORIES, %ecx
        jne     1b
        mov     $PTE_PS + PTE_P_RW, %eax
        xor     %ecx, %ecx
2:      mov     %eax, directories(, %ecx, 8)
        add     $LARGE_PAGE, %eax
        inc     %ecx
        cmp     $DIRECTORIES * ENTRIES, %ecx
        jne     2b

        mov     %cr4, %eax
        or      $CR4_PAE, %eax
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_LME, %eax
        wrmsr
        mov     %cr0, %eax
        or      $CR0_PG, %eax
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $CODE64, $long_mode

        .code64
long_mode:
        mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     %eax, %ss
        mov     %ebp, %edi
        mov     %ebx, %esi
        xor     %ebp, %ebp
        call    monitor
3:      cli
        hlt
        jmp     3b

        /* Each stub leaves vector and error code on the stack as the processor does. */
        .macro  stub vector
        .balign 16
        .if     \vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21
        .else
        push    $0
        .endif
        push    $\vector
        jmp     interrupted
        .endm

        .balign 16
        .globl  stubs
stubs:
        .set    i, 0
        .rept   VECTORS
        stub    i
        .set    i, i + 1
        .endr

interrupted:
        push    %rax
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        cld
        lea     72(%rsp), %rdi
        call    interrupt
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

        .section .rodata
        .balign 8
gdt:
        .quad   0
        .quad   0x00af9b000000ffff      /* 64-bit code */
        .quad   0x00cf93000000ffff      /* data */
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .quad   gdt

        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
directories:
        .skip   DIRECTORIES * 4096
        .balign 16
        .skip   STACK_SIZE
stack_top:
        .section .note.GNU-stack, "", @progbits
