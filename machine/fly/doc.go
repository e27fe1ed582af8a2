// Package fly makes machines at Fly.io, or at any server that speaks Fly's Machines API.
//
// It needs an app to make machines in, a token that may deploy to that app and nothing else, and an image for each
// machine. Machines dial home, so they need a route to the server and the server needs none to them: no service, no
// address and no port of theirs is ever asked for. docs/fly.md is the guide for people.
//
// # What a machine carries
//
// The create request holds everything, so that nothing is missing when its answer is lost: the Spec's name is the
// machine's name, which Fly keeps unique in an app, and owner, name, lifetime and labels are its metadata. A create
// that may have happened is asked for again; Fly then answers 409 with the machine's id, and a machine whose metadata is
// ours is adopted. One that is somebody else's is fault.Conflict and is never touched.
//
// "restart" is always "no": left out it means ten more tries, which would run a job again behind the engine's back.
// "auto_destroy" is always false: a machine that has exited stays, with its exit status in its events, until it is
// destroyed. A stopped machine costs a few cents a month for its disk; a lost exit status costs the job.
//
// # The lifetime
//
// Fly has no limit of its own on how long a machine runs, so what runs in the machine has to end it. The agent does.
// A bare machine has no agent in it: its end date is in its metadata, and whoever sweeps by it ends the machine. What
// it costs to be wrong is a machine that runs on, so docs/fly.md says how to look for those.
//
// # Pace
//
// Fly allows one request a second for each kind of request about each machine, and for creates and lists about each
// app, with a burst of three; reading one machine five a second with a burst of ten. Calls wait for their turn, and for
// as long as a Retry-After says, but never beyond their context: a Create whose turn would come too late is
// fault.Exhausted at once, as nothing was asked.
package fly
