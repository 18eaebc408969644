/* Reports to the user: one line each, through the function the user may replace. */
#pragma once
#include <duet/context.h>

/* With the shown values of who runs here. */
__attribute__((format(printf, 2, 3))) void duet__log(enum duet_level level, const char *format,
                                                     ...);
/* With those of another context instead: of the work that the line is about. NULL: none. */
__attribute__((format(printf, 3, 4))) void
duet__log_in(duet_context *context, enum duet_level level, const char *format, ...);
