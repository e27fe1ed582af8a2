// Command bench measures Dayfly as its users meet it: the real binary, started with its default settings, spoken to
// over HTTP on loopback.
//
//	go run ./bench            everything; several minutes
//	go run ./bench -quick     small counts, to see that it works
//	go run ./bench -only noop -rounds 5
//
// A number without a comparison says more about the computer than about the program. So each figure stands beside a
// baseline that is measured in the same run: the system call that bounds it, or the obvious program that somebody
// would write instead (minimal.go, files.go). Subject and baseline take turns, round by round, because the speed of a
// shared computer drifts; the ratio is taken within each round.
//
//	bench ──┬─ HTTP ──> dayfly serve ──> its supervisor ──> jobs      the subject
//	        ├─ HTTP ──> bench minimal ────────────────────> commands  the obvious program
//	        ├─ HTTP ──> bench files                                   a bare file server
//	        └─ exec ────────────────────────────────────────────────> commands  the bound
//
// The program reports and does not judge: a target that is not met is printed as such and changes nothing else. It
// fails only when something does not work, such as a job that does not succeed.
//
// Everything it makes is below one temporary directory. Every process it starts, and every process those start, has
// its program or its working directory there, which is how all of them are found and ended in any case.
// docs/benchmarks.md explains each figure.
package main
