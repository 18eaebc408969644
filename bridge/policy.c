/* Who makes the loops and pools that duet starts by itself. */
#include "check.h"
#include "fork.h"
#include "lock.h"
#include "log.h"
#include "runtime.h"

#include <duet/policy.h>

#include <errno.h>

static struct duet__lock lock; /* guards the policy and the scope */
static const duet_policy built_in;
static duet_policy policy; /* at first the built-in one */
static duet_policy_scope *innermost; /* NULL: no scope */

/* A child keeps the policy; whoever held the lock is not there. */
static void reset(void)
{
    duet__store_relaxed(&lock.word, 0);
}
DUET__IN_CHILD(reset)

static int check_policy(const char *function, const duet_policy *given)
{
    if (given &&
        !duet__reserved_unused(given->reserved, sizeof given->reserved / sizeof(uintptr_t)))
        return duet__bad_argument(function, "reserved is not zero: was the policy initialised?");
    return 0;
}

static bool is_built_in(const duet_policy *given)
{
    return !given->make_loop && !given->make_pool;
}

int duet_policy_set(const duet_policy *given)
{
    int rc = check_policy(__func__, given);
    if (rc < 0)
        return rc;
    duet__lock(&lock);
    if (innermost)
        rc = -EBUSY;
    else if (given && !is_built_in(&policy))
        rc = -EALREADY;
    else
        policy = given ? *given : built_in;
    duet__unlock(&lock);
    return rc;
}

void duet_policy_get(duet_policy *ret)
{
    if (!ret) {
        duet__bad_argument(__func__, "ret is NULL");
        return;
    }
    duet__lock(&lock);
    *ret = policy;
    duet__unlock(&lock);
}

int duet_policy_scope_begin(duet_policy_scope *scope, const duet_policy *given)
{
    int rc = scope ? check_policy(__func__, given) : duet__bad_argument(__func__, "scope is NULL");
    if (rc < 0)
        return rc;
    duet__lock(&lock);
    scope->outer = innermost;
    scope->before = policy;
    policy = given ? *given : built_in;
    innermost = scope;
    duet__unlock(&lock);
    return 0;
}

void duet_policy_scope_end(duet_policy_scope *scope)
{
    duet__lock(&lock);
    duet__check(scope && scope == innermost, "scopes of policies end in reverse order");
    policy = scope->before;
    innermost = scope->outer;
    duet__unlock(&lock);
}

/* ---- Making ---- */

/* What a policy's function returned: an error, or 0 and something. */
static int check_made(int rc, const void *made, const char *kind, const char *name)
{
    if (rc == 0 && made)
        return 0;
    if (rc >= 0)
        return duet__bad_argument("duet_policy", "what makes a loop or pool returns 0 and one, or "
                                                 "an error below 0");
    duet__log(DUET_ERROR, "the policy makes no %s '%s': %s", kind, name, duet_strerror(rc));
    return rc;
}

int duet__policy_make_loop(duet_loop **ret, const duet_loop_config *config)
{
    duet_policy now;
    duet_policy_get(&now);
    if (!now.make_loop)
        return duet_loop_open(ret, config);
    *ret = NULL;
    int rc = now.make_loop(now.ctx, ret, config);
    if (rc < 0)
        *ret = NULL;
    return check_made(rc, *ret, "loop", config->name ? config->name : "");
}

int duet__policy_make_pool(duet_pool **ret, const duet_pool_config *config)
{
    duet_policy now;
    duet_policy_get(&now);
    if (!now.make_pool)
        return duet_pool_open(ret, config);
    *ret = NULL;
    int rc = now.make_pool(now.ctx, ret, config);
    return check_made(rc, *ret, "pool", config->name ? config->name : "");
}
