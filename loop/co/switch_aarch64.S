/* void duet__switch(void **save, void *to): AAPCS64, aarch64.
 *
 * x19 to x30, sp, and the low halves of v8 to v15 are the callee's to keep. Ends in ret, which needs
 * no landing pad. The CFI is as in switch_x86_64.S. */
    .text

    .macro keep_pair a, b, at
    stp \a, \b, [sp, #\at]
    .cfi_rel_offset \a, \at
    .cfi_rel_offset \b, \at + 8
    .endm
    .macro restore_pair a, b, at
    ldp \a, \b, [sp, #\at]
    .cfi_restore \a
    .cfi_restore \b
    .endm

    .globl duet__switch
    .hidden duet__switch
    .type duet__switch, %function
    .p2align 4
duet__switch:
    .cfi_startproc
    sub sp, sp, #160
    .cfi_adjust_cfa_offset 160
    keep_pair d8, d9, 0
    keep_pair d10, d11, 16
    keep_pair d12, d13, 32
    keep_pair d14, d15, 48
    keep_pair x19, x20, 64
    keep_pair x21, x22, 80
    keep_pair x23, x24, 96
    keep_pair x25, x26, 112
    keep_pair x27, x28, 128
    keep_pair x29, x30, 144
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    .globl duet__switch_resume
    .hidden duet__switch_resume
duet__switch_resume:
    restore_pair d8, d9, 0
    restore_pair d10, d11, 16
    restore_pair d12, d13, 32
    restore_pair d14, d15, 48
    restore_pair x19, x20, 64
    restore_pair x21, x22, 80
    restore_pair x23, x24, 96
    restore_pair x25, x26, 112
    restore_pair x27, x28, 128
    restore_pair x29, x30, 144
    add sp, sp, #160
    .cfi_adjust_cfa_offset -160
    ret
    .cfi_endproc
    .size duet__switch, . - duet__switch

/* Where a fresh stack goes on: duet__switch_prepare() left the function in x19, its argument in x20. */
    .globl duet__switch_entry
    .hidden duet__switch_entry
    .type duet__switch_entry, %function
    .p2align 4
duet__switch_entry:
    .cfi_startproc
    .cfi_undefined x30
    mov x0, x20
    blr x19
    brk #1
    .cfi_endproc
    .size duet__switch_entry, . - duet__switch_entry

/* void *duet__switch_prepare(char *low, char *high, void (*entry)(void *), void *arg) */
    .globl duet__switch_prepare
    .hidden duet__switch_prepare
    .type duet__switch_prepare, %function
    .p2align 4
duet__switch_prepare:
    .cfi_startproc
    and x9, x1, #-16
    sub x9, x9, #160
    mov x10, #0
0:  str xzr, [x9, x10]
    add x10, x10, #8
    cmp x10, #160
    b.ne 0b
    stp x2, x3, [x9, #64]
    adr x10, duet__switch_entry
    stp xzr, x10, [x9, #144]
    mov x0, x9
    ret
    .cfi_endproc
    .size duet__switch_prepare, . - duet__switch_prepare

    .section .note.GNU-stack, "", %progbits
