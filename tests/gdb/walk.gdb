# Walks a suspended coroutine: the switch has saved its stack pointer, frame pointer and program counter.
set confirm off
break look_here
run
set var $saved_sp = $sp
set var $at = target_co.at
set $sp = $at.sp
set $rbp = $at.fp
set $pc = $at.pc
backtrace
kill
