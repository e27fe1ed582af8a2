// Package memmachine is a machine.Provider on which nothing runs: the reference for what a provider does, and the
// fake that tests of everything above a provider are written with.
//
// A [Cloud] is the other side: it holds the machines, moves them from creating to running to exited by its clock,
// and misbehaves on request. A [Provider] is one process's way to it and remembers nothing, so a second provider on
// the same cloud sees exactly what a new process would see:
//
//	old := memmachine.New(nil)
//	…                                  // the old process dies
//	fresh := old.Cloud().Connect()     // a new one lists what it never created
//
// # What runs in a machine
//
// A [Guest] is called in a goroutine of its own for each machine that starts, and plays whatever would run there:
// an agent that claims its attempt, a program that exits. Without one machines idle until they are destroyed or
// their lifetime ends. What a guest prints and which signals it hears goes through the [Inside] of its context, and
// [Options.Exec] plays the commands that are run in its machine beside it.
//
// # How it misbehaves
//
// Every call passes the rules made with [Cloud.Fail] on its way to the cloud, in the order they were made:
//
//	cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(2)
//	cloud.Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1)
//
//	Create 1, 2 ──> Refuse                                         nothing is created
//	Create 3    ──> (used up) ──> ExecuteThenTimeout ──> cloud     a machine exists, the caller is told "timeout"
//	Create 4    ──> (used up) ──> (used up) ───────────> cloud     as it should be
//
// A rule is used up only by a call that reaches it, so a list of rules reads as a script; and because a fault may
// pass the call on, rules also combine: a delay in front of a refusal is a slow refusal. A [Fault] is a function, so
// a test can write its own.
//
// The package works inside a testing/synctest bubble, where its real clock is the bubble's.
package memmachine
