/* The switch on x86-64, in line: the place where the stack that is left goes on is behind the jump.
 *
 * In line, since a call to the switch that ends in a jump, and not in a return, leaves the return
 * predictor one entry behind: then each function that returns after the switch is mispredicted
 * (yield 25 ns; ended by a return it is 19, and in line 14).
 *
 * The compiler is told that all is lost but the stack and frame pointers, so it keeps what it needs.
 * No shadow stack is kept, so objects that switch say nothing of one (switch_x86_64.S). */
#pragma once

static inline __attribute__((always_inline)) void duet__switch(struct duet__point *from,
                                                               const struct duet__point *to)
{
    __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                     "movq %%rsp, 0(%0)\n\t"
                     "movq %%rbp, 8(%0)\n\t"
                     "movq %%rax, 16(%0)\n\t"
                     "movq 0(%1), %%rsp\n\t"
                     "movq 8(%1), %%rbp\n\t"
                     "jmp *16(%1)\n"
                     "1:\n"
                     : "+D"(from), "+S"(to)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                       "r15", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                       "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"
#ifdef __AVX512F__
                       ,
                       "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
                       "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k0",
                       "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#endif
    );
}
