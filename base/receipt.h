/* Receipts from inside: how a shutdown lists what it leaves behind. */
#pragma once
#include "context.h"
#include "future_impl.h"

#include <duet/receipt.h>

/* Half of the time that is left until `by`: for what may end by itself. */
duet_deadline duet__half_way(duet_deadline by);
/* One more piece of work that is left; all is copied. Without memory it counts as unlisted. */
void duet__receipt_add(duet_receipt *receipt, const duet_future *work, const char *place,
                       const char *waits_for);
/* Likewise, of something without a future. */
void duet__receipt_add_named(duet_receipt *receipt, const char *kind, const char *name,
                             int64_t since_ns, const char *place, const char *waits_for,
                             duet_context *context);
/* One line in the log for each: "PLACE HOW: WORK waits for …". */
void duet__receipt_log(const duet_receipt *receipt, const char *how);
/* Adds what is in `from`, which is empty then. */
void duet__receipt_move(duet_receipt *receipt, duet_receipt *from);
/* Frees what is in it. */
void duet__receipt_clear(duet_receipt *receipt);
/* How a shutdown ends whose last wait returned rc: logs what is left, hands it out (ret may be
 * NULL), and says whether there is any: 0 or -ETIME. */
int duet__receipt_end(duet_receipt *left, int rc, duet_receipt **ret);
