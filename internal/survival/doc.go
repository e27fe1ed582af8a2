// Package survival breaks a real Dayfly in every way that a night in production would, and checks that its promises
// hold. It has no code of its own: everything is in its tests.
//
// The tests see what a user sees. They build the binaries, start the server as a process, talk to it over HTTP, and
// then kill it, stop it, continue it, fill its disk and start it again. What they know of the inside is the names of
// the failpoints, which the binary they build is compiled with.
//
//	test ---- nanny ---- dayfly serve            a nanny per start of a server: the kernel gives it the orphans of
//	   |        `------- supervisor ---- job     whatever ran below it, however often they fork and whatever session
//	   `----- nanny ---- dayfly serve (again)    they make. When the test ends, in whichever way, it kills them all
//
// # The ledger
//
// A job of these tests appends a line to a file when it starts and one when it ends. So what ran, how often and where
// is known without asking the server, whose answers are what is to be checked.
//
// # The check
//
// After every fault, once it is healed: every acknowledged job is there and has ended exactly once; its events have no
// gap; its command was started at most once per attempt and no attempt was made for nothing; its output is, byte for
// byte, what the command wrote; and no process and no machine is left.
package survival
