# The firmware of rom.rs: from reset to 64-bit mode, exceptions through its own table, a long loop.
# Tables: pages at 0x2000-0x4fff (one page of 2 MiB), exceptions at 0x5000, stack below 0x9000.
        .code16
        .org 0xfe00
entry:  cli
        cld
        lgdtl   %cs:gdt_at
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $0xf0000 + protected
        .balign 4
        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x9000, %esp
        # Three tables of 4 KiB, empty but for their first entries.
        movl    $0x2000, %edi
        xorl    %eax, %eax
        movl    $0xc00, %ecx
        rep stosl
        movw    $0x3003, 0x2000
        movw    $0x4003, 0x3000
        movb    $0x83, 0x4000
        movl    $0x2000, %eax
        movl    %eax, %cr3
        movb    $0x20, %al
        movzbl  %al, %eax
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx
        rdmsr
        orb     $1, %ah
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $0xf0000 + long
        .code64
        # Handlers for #BP (3) and #UD (6): gates of 16 bytes from 0x5000 on.
long:   leaq    on_breakpoint(%rip), %rax
        movl    $0x5030, %edi
        call    gate
        leaq    on_invalid(%rip), %rax
        movl    $0x5060, %edi
        call    gate
        lidt    idt_at(%rip)
        xorl    %ebx, %ebx
        int3
        ud2
        # The tables anew, so that translations are thrown away, and again an exception.
        movq    %cr3, %rax
        movq    %rax, %cr3
        int3
        movl    $20000000, %ecx
1:      addl    %ecx, %edx
        decl    %ecx
        jnz     1b
        # 0x31 if all three exceptions came (1 + 16 + 1, and 0x1f): (0x31 << 1) | 1 = 99.
        leal    0x1f(%rbx), %eax
        outb    %al, $0xf4
2:      hlt
        jmp     2b
gate:   movw    %ax, (%rdi)
        movl    $0x8e000018, 2(%rdi)
        movb    $0, 4(%rdi)
        movb    $0x8e, 5(%rdi)
        shrl    $16, %eax
        movw    %ax, 6(%rdi)
        movq    $0, 8(%rdi)
        ret
on_breakpoint:
        incl    %ebx
        iretq
on_invalid:
        addl    $16, %ebx
        addq    $2, (%rsp)
        iretq
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_at: .word   31
        .long   0xf0000 + gdt
idt_at: .word   0x0fff
        .quad   0x5000
        .org 0xfff0
        .code16
        ljmpw   $0xf000, $entry
        .org 0x10000
