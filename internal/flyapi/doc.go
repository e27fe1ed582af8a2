// Package flyapi serves Fly's Machines API over any provider, so that programs written for Fly run against other
// hardware, without an account. docs/fly-api.md says endpoint by endpoint what is served and how faithful it is.
//
// # A machine and its launches
//
// A Fly machine can be stopped and started again; a provider's machine lives once. So a Fly machine is a row of our own, and
// each launch of it (a start, a restart, the instance after an update) is one machine of the provider:
//
//	row   148e21eef14789   created ─> started ──── stop ───> stopped ── start ─> started ── destroy ─> destroyed
//	launch 1               fly-148e21eef14789-1 ──────────|
//	launch 2                                                            fly-148e21eef14789-2 ──────|
//
// A stopped machine has nothing at its provider, and starts with a clean root filesystem, as at Fly.
//
// # Intent before effect
//
// Whatever is about to happen is committed first: the row with its new state and the number of the launch. A function
// without side effects, decide, then says what the provider has to be asked next, from the row and what was last seen of the
// launch; a goroutine per machine that has something to do carries that out. After a crash at any point the same function
// goes on from the row, and because a launch has a name of its own, asking twice makes one machine. What exists at the
// provider and in no row is removed by the sweep, after a grace, and never many at once.
package flyapi
