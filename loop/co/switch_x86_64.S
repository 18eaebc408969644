/* Where a fresh stack goes on: its function and argument are on top of it, by duet__switch_prepare().
 * The undefined return address ends every backtrace here. No .note.gnu.property: the switch does not keep
 * a shadow stack. */
    .text
    .globl duet__switch_entry
    .hidden duet__switch_entry
    .type duet__switch_entry, @function
    .p2align 4
duet__switch_entry:
    .cfi_startproc
    .cfi_undefined %rip
    popq %rdi
    .cfi_adjust_cfa_offset -8
    popq %rax
    .cfi_adjust_cfa_offset -8
    call *%rax
    ud2
    .cfi_endproc
    .size duet__switch_entry, . - duet__switch_entry

    .section .note.GNU-stack, "", @progbits
