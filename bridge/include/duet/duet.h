/* duet/duet.h: everything. */
#pragma once
#include <duet/bridge.h>
#include <duet/group.h>
#include <duet/sync.h>
