// Package boot makes a machine run this program, as a runner that dials home, and ends it again.
//
// A program that is its own runner is also its own helper: it is started once more to hold the machines of this
// computer, and to be the first process of a container. So a user's program needs nothing beside it, see [Help].
package boot
