// Package machine is the capability to bring machines into being and to end them.
//
// A provider gives birth and death, nothing else. It never connects to a machine and never learns its address: what
// runs inside dials home. So the same four methods suit a process tree, a container, a Fly Machine, a pod and a
// container group, and a new cloud is one folder beside this one.
//
// Every machine carries its own end: [Spec.Lifetime] is required and is enforced where the machine runs, so that a
// machine nobody remembers still stops. And every machine can be found: name, owner and labels are part of the
// create request itself, never added afterwards, and [Provider.List] returns what nobody remembers creating.
//
// Package machinetest checks that a provider does what this package says; it is the specification.
package machine

import (
	"context"
	"time"
)

// Provider creates, finds and destroys machines of one kind.
//
// Implementations are safe for concurrent use. They do not retry: they classify the failure and the caller, which
// knows what it has written down, decides. Every method obeys its context and then returns fault.Canceled or the
// context's own error. Specs are not retained or modified, and
// returned machines are the caller's own copies.
type Provider interface {
	// Create asks for a machine and returns once the request is accepted; the machine may still be starting.
	//
	// It is idempotent in spec.Name for one owner: asking again for a machine that exists returns that machine,
	// whatever its state, and starts nothing. That is what lets a caller which crashed before it saw the answer
	// simply ask again with the same spec.
	//
	// fault.Invalid or fault.Unsupported: never, as written. fault.Exhausted: not now. fault.Denied: credentials.
	// fault.Conflict: the name is taken by something that is not the owner's. For all of these nothing was
	// created. Any other error is ambiguous: a machine may exist now, or later. After a Destroy the name is free
	// again: creating it makes a new machine.
	Create(ctx context.Context, spec *Spec) (*Machine, error)

	// Get returns the machine as the provider sees it now, or fault.NotFound when it is definitely gone or never
	// was. Any other error says nothing about the machine. A machine that has exited is still returned, with its
	// Exit, until it is destroyed.
	Get(ctx context.Context, id string) (*Machine, error)

	// List returns every machine of the owner that has not been destroyed, exited ones included, whichever process
	// created it. The answer is whole or an error: a page that failed is not a shorter list.
	List(ctx context.Context, owner string) ([]*Machine, error)

	// Destroy ends the machine, everything that runs in it, and every trace it left at the provider. It may be
	// repeated: destroying what is gone, or never was, is no error. It returns nil only when the machine is
	// certainly gone; fault.Unavailable means ask again.
	Destroy(ctx context.Context, id string) error
}

// State is where a machine is in its life. States only increase.
type State string

// The states, in order.
const (
	Creating State = "creating" // Accepted, not yet running.
	Running  State = "running"  // Its first process has been started.
	Exited   State = "exited"   // It ended by itself, by a signal or at its end date; Exit says how.
	Gone     State = "gone"     // Nothing of it is left.
)

// Rank returns the place of s in the order of states, from 0, so that callers can refuse to go backwards. An unknown
// state ranks below all others.
func (s State) Rank() int {
	switch s {
	case Creating:
		return 0
	case Running:
		return 1
	case Exited:
		return 2
	case Gone:
		return 3
	default:
		return -1
	}
}

// Spec says what machine is wanted. The same Spec always describes the same machine: retrying an ambiguous create
// sends it again unchanged.
type Spec struct {
	// Name identifies the machine at its provider: 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter.
	Name string `json:"name"`
	// Owner is the installation the machine belongs to; List finds machines by it. Same form as Name.
	Owner string `json:"owner"`
	// Labels are carried by the machine from its first moment. Keys have the form of Name, with '_' allowed; at most
	// 32 labels, values of at most 256 bytes.
	Labels map[string]string `json:"labels,omitempty"`

	// Lifetime is how long the machine may exist, counted from its creation on a clock that does not stop. It is
	// required. At its end the machine is stopped as if it had been told to, whoever is still watching.
	Lifetime time.Duration `json:"lifetime"`

	// At most one of Agent, Program and Command is set. With none of them the machine runs what its Image says.
	//
	// Agent makes the machine run Dayfly's agent, which dials home for its work.
	Agent *Agent `json:"agent,omitempty"`
	// Program is run, and brought along by the provider: it need not be in the Image, which may be left out. Providers
	// that are no [Carrier] refuse it with fault.Unsupported.
	Program *Program `json:"program,omitempty"`
	// Command is run as it is: the first element is the program, found in the machine's PATH. In an image with an
	// entrypoint it is that entrypoint's arguments, as for docker run.
	Command []string `json:"command,omitempty"`
	// Entrypoint replaces the Image's entrypoint, and its default command too. Providers without images refuse it.
	Entrypoint []string `json:"entrypoint,omitempty"`

	// Env is the environment of what runs in the machine, beyond the provider's own minimum.
	Env map[string]string `json:"env,omitempty"`
	// Files are in the machine before its first process starts.
	Files []File `json:"files,omitempty"`
	// User is who the first process runs as, in the form of the provider's images: "name", "1000:1000". "" leaves it to
	// the image.
	User string `json:"user,omitempty"`
	// Image is the container or machine image, for providers that have images. Others refuse a Spec that names one.
	Image string `json:"image,omitempty"`
	// Region is where to create it, in the provider's words, or a list of regions to try in order, separated by commas.
	// "" leaves it to the provider. Providers without regions refuse a Spec that names one.
	Region string `json:"region,omitempty"`
	// Size is the machine's share of CPU, memory and disk; the zero Size is the provider's default.
	Size Size `json:"size,omitzero"`
}

// File is a small file that a machine is created with.
type File struct {
	Path string `json:"path"` // absolute, in the machine
	Data []byte `json:"data"`
	Mode uint32 `json:"mode,omitempty"` // permission bits; 0: 0o644
}

// Program is a program of the computer that asks for a machine, to be run there.
type Program struct {
	// File is its path where the provider runs: an executable for the machine's kind of computer that needs nothing else
	// there, such as a Go program that was built with CGO_ENABLED=0. It is read when the machine is created.
	// [ThisProgram] is the program that runs now, also when its file has been replaced meanwhile.
	File string `json:"file"`
	// Args are its arguments, without its own name.
	Args []string `json:"args,omitempty"`
}

// ThisProgram is the path at which a process finds the program that it runs, whatever has become of its file.
const ThisProgram = "/proc/self/exe"

// Helper is the first argument of a program that a provider has started once more to be its helper: to hold the machines
// of this computer, or to be the first process of a container. It is followed by what the helper is to do. A program
// whose own providers start it calls dayfly.Main before anything else, which takes care of that.
const Helper = "dayfly-helper"

// Agent tells the agent inside a machine where home is and which attempt it has come for.
type Agent struct {
	// URL is the server's base URL, as seen from the machine.
	URL string `json:"url"`
	// Attempt is the id of the attempt to claim.
	Attempt string `json:"attempt"`
	// Token lets one instance claim that attempt, once.
	Token string `json:"token"`
}

// Machine is one machine as its provider sees it.
type Machine struct {
	ID       string            `json:"id"`       // the provider's own name for it, to pass to Get and Destroy
	Name     string            `json:"name"`     // as in the Spec
	Owner    string            `json:"owner"`    // as in the Spec
	Labels   map[string]string `json:"labels"`   // as in the Spec
	State    State             `json:"state"`    //
	Created  time.Time         `json:"created"`  // by the provider's clock: to show, not to decide from
	Expires  time.Time         `json:"expires"`  // Created plus the Lifetime, to show
	Exit     *Exit             `json:"exit"`     // how it ended; nil before Exited, or when nobody knows
	Image    string            `json:"image"`    // what it runs, with the digest it was resolved to; "" without images
	Location string            `json:"location"` // where it runs, in the provider's words: "host web-1, pid 4711", "ams"
}

// Exit says how a machine, or a command in it, ended.
type Exit struct {
	// Code is the exit status, 0 to 255; -1 when a signal ended it or it never started.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it, such as "SIGKILL", or "".
	Signal string `json:"signal,omitempty"`
	// OOMKilled is set when the kernel killed a process of the machine for want of memory.
	OOMKilled bool `json:"oom_killed,omitempty"`
	// DiskFull is set when it failed while its disk, or its share of one, was full.
	DiskFull bool `json:"disk_full,omitempty"`
	// Expired is set when it was stopped at the end of its Lifetime.
	Expired bool `json:"expired,omitempty"`
	// Message is a sentence for a person when there is more to say, such as why it could not start.
	Message string `json:"message,omitempty"`
}

// OK reports whether the exit is a success: status 0 and nothing else to report.
func (e *Exit) OK() bool {
	return e != nil && e.Code == 0 && e.Signal == "" && !e.OOMKilled && !e.DiskFull && !e.Expired
}
