"""How much of the machine others took while something ran: other processes, and the hypervisor."""
import dataclasses
import os
import resource

STOLEN_MOST, OTHERS_MOST = 0.03, 0.05  # parts of all processors; above one of them a run was loud
TICK_S = 1 / os.sysconf('SC_CLK_TCK')


@dataclasses.dataclass(frozen=True)
class Noise:
    stolen: float
    others: float

    def loud(self):
        return self.stolen > STOLEN_MOST or self.others > OTHERS_MOST

    def amount(self):
        return self.stolen + self.others


@dataclasses.dataclass(frozen=True)
class Moment:
    """Seconds since the machine started, of all processors together; `ours`: of this process and its children."""
    busy: float
    stolen: float
    all: float
    ours: float


def moment():
    with open('/proc/stat') as stat:
        user, nice, system, idle, iowait, irq, softirq, stolen = (int(n) * TICK_S for n in stat.readline().split()[1:9])
    busy = user + nice + system + irq + softirq
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Moment(busy, stolen, busy + idle + iowait + stolen, sum(u.ru_utime + u.ru_stime for u in usages))


def between(before, after):
    """Children that have not been waited for yet count as others."""
    span = max(after.all - before.all, TICK_S)
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return Noise((after.stolen - before.stolen) / span, max(others, 0) / span)
