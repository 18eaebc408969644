/* Where a fresh stack goes on: its argument and function are on top of it, by duet__switch_prepare().
 * The undefined return address ends every backtrace here. */
    .text
    .globl duet__switch_entry
    .hidden duet__switch_entry
    .type duet__switch_entry, %function
    .p2align 4
duet__switch_entry:
    .cfi_startproc
    .cfi_undefined x30
    hint #36                /* bti j */
    ldp x0, x9, [sp], #16
    .cfi_adjust_cfa_offset -16
    blr x9
    brk #1
    .cfi_endproc
    .size duet__switch_entry, . - duet__switch_entry

    .section .note.GNU-stack, "", %progbits
