# Walks a suspended coroutine: its stack pointer is what the switch saved, and its program counter is the
# point where the switch goes on.
set confirm off
break look_here
run
set var $saved_sp = $sp
set $sp = target_co.sp
set $pc = &duet__switch_resume
backtrace
kill
