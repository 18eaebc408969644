#include "mpsc.h"

_Thread_local struct duet__trail duet__trail;
