/* The switch on aarch64, in line, as in switch_x86_64.h. x18 is the platform's; x29 is the frame
 * pointer, and kept like the stack pointer. */
#pragma once

static inline __attribute__((always_inline)) void duet__switch(struct duet__point *from,
                                                               const struct duet__point *to)
{
    register struct duet__point *x0 __asm__("x0") = from;
    register const struct duet__point *x1 __asm__("x1") = to;
    __asm__ volatile("mov x9, sp\n\t"
                     "adr x10, 1f\n\t"
                     "stp x9, x29, [%0]\n\t"
                     "str x10, [%0, #16]\n\t"
                     "ldp x9, x29, [%1]\n\t"
                     "ldr x10, [%1, #16]\n\t"
                     "mov sp, x9\n\t"
                     "br x10\n"
                     "1:\n\t"
                     "hint #36\n" /* bti j: a landing pad, where those are asked for */
                     : "+r"(x0), "+r"(x1)
                     :
                     : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
                       "x14", "x15", "x16", "x17", "x19", "x20", "x21", "x22", "x23", "x24", "x25",
                       "x26", "x27", "x28", "x30", "cc", "memory", "v0", "v1", "v2", "v3", "v4",
                       "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
                       "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
                       "v27", "v28", "v29", "v30", "v31"
#ifdef __ARM_FEATURE_SVE
                       ,
                       "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11",
                       "p12", "p13", "p14", "p15"
#endif
    );
}
