/* Reports to the user: one line each, through the function the user may replace. */
#pragma once
#include <duet/base.h>

__attribute__((format(printf, 2, 3))) void duet__log(enum duet_level level, const char *format,
                                                     ...);
