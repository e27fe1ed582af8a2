// Package sqlite is the store in one SQLite file: no server, no configuration, one process at a time.
//
// # Group commit
//
// SQLite lets one transaction write at a time, and a transaction is durable when its end has been flushed to disk,
// which takes far longer than writing a job. So whoever writes takes along all the writes that wait, carries them out in
// one transaction, flushes once and answers them all. That is the writer's own goroutine, or a caller who finds that
// nothing is going on:
//
//	callers        who writes                            disk
//	Submit ──────>│ BEGIN IMMEDIATE
//	Claim  ──────>│   run Submit, Claim, End
//	End    ──────>│   refuse what fails, without a trace
//	Submit ─ ─ ─ >│ COMMIT ─────────────────────────────>│ write-ahead log, fsync
//	       <──────│ answer all three                     │
//	              │ BEGIN IMMEDIATE
//	              │   run what came meanwhile: Submit …
//
// Why each failure is safe: a write that fails before it changes anything is refused alone. One that fails halfway
// takes the transaction with it, and the others are carried out again without it, so a write is a function that can
// be called again. If the commit itself fails, nothing has changed, and all are told so. Nobody is answered before
// the flush, so what a caller has been told is on disk, and what a crash takes away nobody has been told of.
//
// Reads go to a few connections of their own. Each sees the database as it was at one moment, and waits for no
// writer. What has been answered is what the next read sees.
//
// # Finding work
//
// Each kind of row that somebody waits for has a partial index that holds those rows only: ready jobs, held jobs,
// live attempts, machines that are not gone. Every statement that runs often is a seek in one of them or in a primary
// key, and a test reads SQLite's query plans to keep it so. A backlog of a million jobs costs space, not time.
//
// # What the writer knows
//
// Being the only one to write, the writer remembers the attempts in flight and their jobs, so that a claim or an end
// changes rows without reading them first, and it counts the jobs of each lane and state, so that nobody counts the
// backlog. Both are taken from the database when the store is opened or needed, and follow each commit.
//
// # One process
//
// A process that has the store open holds a lock on the file PATH.lock, and says in PATH.owner who it is and where it
// can be reached. A second one is refused at once and told that. The lock is the kernel's and ends with the process;
// the file is only ever believed while the lock is held.
//
// # Failpoints
//
// Every write passes the failpoints store.OP.before, when it has been carried out but not been committed, and
// store.OP.after, when it has been committed and its caller has not been told. [Ops] lists the names of OP.
package sqlite
