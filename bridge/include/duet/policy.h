/* duet/policy.h: who makes the loops and pools that a program starts without naming them.
 *
 * duet_run(), duet_loop_start() and the pools that duet opens by itself (the default one, and that
 * of duet_resolve()) ask the process's policy to make what they need. So a program, or a library
 * that it links, can give them another configuration, hooks, or names, without touching the code
 * that starts them. duet_loop_open() and duet_pool_open() ask nobody: a policy ends in them. */
#pragma once
#include <duet/loop.h>
#include <duet/pool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Copied; what it points to must be there as long as it is the policy, and until calls that began
 * before have returned. What it gives to a default pool, hooks say, is used until the process has
 * ended: it is best static. */
typedef struct duet_policy {
    void *ctx;
    /* Makes what is asked for: like duet_loop_open(), a loop that nobody runs yet, which from then
     * on belongs to who asked. config is never NULL. NULL: duet_loop_open(). An error is what
     * duet_run() or duet_loop_start() returns; 0 without a loop, or a positive value, is -EINVAL. */
    int (*make_loop)(void *ctx, duet_loop **ret, const duet_loop_config *config);
    /* Likewise, as duet_pool_open(). Called for the default pool when it is first needed, and anew
     * after duet_shutdown(). Two threads may need it at the same time, then one of the two pools
     * is closed at once. */
    int (*make_pool)(void *ctx, duet_pool **ret, const duet_pool_config *config);
    uintptr_t reserved[4]; /* zero */
} duet_policy;

/* [any] Sets the process's policy, once: 0; -EALREADY there is one; -EBUSY within a scope;
 * -EINVAL. NULL: restores the built-in one; 0, or -EBUSY within a scope. Loops and pools that
 * exist stay as they are. */
DUET_API int duet_policy_set(const duet_policy *policy);
/* [any] The policy of now; of the built-in one all is NULL. */
DUET_API void duet_policy_get(duet_policy *ret);

/* A policy for a while, for tests: within it, that is the process's policy, whatever was before.
 * Owned by who begins it, until it ends it; the members are duet's. */
typedef struct duet_policy_scope {
    struct duet_policy_scope *outer;
    duet_policy before;
} duet_policy_scope;
/* [any] They nest. policy NULL: the built-in one. 0, -EINVAL. */
DUET_API int duet_policy_scope_begin(duet_policy_scope *scope, const duet_policy *policy);
/* [any] The last one that began, else the program aborts. */
DUET_API void duet_policy_scope_end(duet_policy_scope *scope);

#ifdef __cplusplus
}
#endif
