"""Runs real code on the device at hand and says how long it took, without harm to who asked.

`child` runs calls in a process of its own: a crash, a hang or memory that ran out costs one call.
In that process `timing` warms a call up and takes samples of it: events on a GPU, the wall clock on a CPU.
`race` compares versions by samples taken in turn, and stops as soon as statistics tell.
`nvml` reads the card's clocks, throttle counters and energy before and after; it never changes a setting.
`cores` knows how long this process's threads waited for a CPU.
`conditions.undisturbed` does work again if something disturbed the card, and says what the card was like.
`sample.measure` ties these: one call, a row's worth of figures.
`energy.joules` repeats a call for a second, since the card's energy counter ticks ten times a second.
`job` says what is asked of an encoder, and `encoder` has it timed in such a process, by `encoder_bench`
there, which keeps the model for its next workload; `row` is the line that is kept of it. `largest_batch` runs
batches until one does not fit (`memory`). `code` is a digest of the code that builds and times models.
`failure` and `device` are the words for what went wrong and where things run.

The layer stands beside `model` and `training`, below `search` and `tuning`; torch is imported only by calls
that need a device, and by `encoder_bench`, which lives in the child alone.
"""
