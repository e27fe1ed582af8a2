// Package dayflytest is for testing programs that call their functions elsewhere: a pool whose runners are played in the test's own
// process, and fail when the test says so.
//
//	func TestThumbnailsSurviveALostRunner(t *testing.T) {
//		pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Max: 2})
//		runners.KillAfter("thumbnail").Times(1)
//		_, err := Thumbnail.Call(t.Context(), pool, video)
//		// errors.Is(err, dayfly.ErrRunnerLost), and the next call finds another runner
//	}
//
// Nothing is started, no dayfly.Main is needed, and a runner is up in a few milliseconds. Only processes and machines are played. All
// that is between them is what it is elsewhere: runners are invited and dial home, their build is checked, arguments and results
// are encoded, limited and sent in frames over TLS, the pool boots, queues and drains. The network is in memory:
//
//	the test ── Call ──> dayfly.Pool ── frames, TLS ──> network in memory ──> runner, a goroutine in a machine of memmachine
//	   └────── Kill, Cut, Mute, SlowBoots … ───────────────────┴──────────────────────┘
//
// A program that makes its pool itself is given the provider of [New] in place of its own:
//
//	runners := dayflytest.New(t)
//	server, err := NewServer(runners.Provider())
//
// # Fleets and other machines of a server
//
// What a program gets of [dayfly.Client.Fleet] or [dayfly.Client.Provider] is a machine.Provider as that of New is, so a program that is
// given its provider is tested without a server. A pool over a fleet sees what every pool sees, and here it is seen in this way:
//
//	it waits in the fleet's line                      SlowBoots
//	the server is away, and comes back                RefuseBoots(fault.Unavailable).Times(3)
//	the fleet is full for longer than BootTimeout     RefuseBoots(fault.Exhausted)
//	its runner is asked back while calls run          TellToEnd
//	its runner is lost                                Kill, KillBefore, KillAfter
//
// Two things a test has to say that a fleet says by itself: Idle, BootTimeout and Patience of the PoolOptions have other defaults there. And
// that runners were used before by another process, with what functions have left in variables, is always so here.
//
// # The clock
//
// In a bubble of testing/synctest the pool lives by the bubble's clock, because all of it waits for channels and time and
// nothing for the outside world. So a test can wait for an idle runner to go, for the end of a timeout or of a silence, without
// waiting, and knows when everything has come to rest:
//
//	synctest.Test(t, func(t *testing.T) {
//		pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Idle: time.Hour})
//		…
//		time.Sleep(2 * time.Hour)
//		synctest.Wait()
//		// len(runners.Running()) == 0
//	})
//
// The pool must be made inside the bubble, and functions must not wait for what is outside of it, such as commands, files that somebody
// else writes or sockets: time stands still meanwhile.
//
// # What is not as elsewhere
//
// Functions share the memory, the files and the environment of the test. What they log and print goes where it goes in the test, and
// not through the pool's logger; dayfly.InRunner is false, and dayfly.Parent nil. A function that calls os.Exit ends the
// test: [Runners.Kill] is what it wants. Killing a runner ends the contexts of its functions, since no goroutine can be ended from
// outside; what they send afterwards reaches nobody.
//
// # At the end of the test
//
// All faults end, the pool of NewPool is closed, and the test fails if anything is left: a machine, because some pool was not closed, or a
// goroutine that a function has started and left behind, or whose function ignores the end of its context.
package dayflytest
