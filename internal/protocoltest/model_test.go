package protocoltest

import "cmp"

// The bounds of the model. They are as small as they can be for every rule to matter: a second attempt so that the
// first can be late, and a machine more than attempts so that one attempt can have two.
const (
	attempts = 2
	machines = 3
)

// rules are what the protocol consists of. Without one of them it is broken, or so the test says.
type rules struct {
	claim       bool // a machine runs the command only after its claim was granted
	exclusive   bool // a claim is granted to one machine only; the same machine may ask again
	fence       bool // a result counts only if its sender holds the claim of the current attempt
	final       bool // a job that is decided stays as it is
	listFirst   bool // the sweep lists the provider and then reads the store, not the other way round
	sweepLists  bool // the sweep asks the provider for all machines, not only for those whose creation was answered
	ownEnd      bool // a machine that nobody wants ends by itself
	uniqueNames bool // the provider makes no second machine of a name while there is one
	patience    bool // a refusal after a lost answer ends the attempt only when it is known that there is no machine
	prompt      bool // the provider makes nothing any more when it has said for a while that there is no machine
	bill        bool // only an attempt whose first and only create was refused costs nothing
	durable     bool // what refuses the job for good is in the store, with the end of the attempt that it has refused
	kinds       bool // what refuses the job for now may be asked again
	fallback    bool // the job has failed when all of its places refuse it for good, and not when one does
}

func allRules() rules {
	return rules{
		claim: true, exclusive: true, fence: true, final: true, listFirst: true, sweepLists: true, ownEnd: true, uniqueNames: true,
		patience: true, prompt: true, bill: true, durable: true, kinds: true, fallback: true,
	}
}

// faults are how much may go wrong beside what may always happen.
type faults struct {
	crashes, kills, jams uint8
	refusals             uint8 // of creates, each for now or for good
	places               uint8 // that the job names; 0: one, which refuses nothing
	servers              int   // that work on one store at the same time
}

type phase uint8

// The phases of a machine.
const (
	absent  phase = iota
	booting       // its agent has not claimed yet
	granted       // its claim is in the store, but the answer is not with it yet
	working       // the command runs
	done          // the command has ended and the result is sent
	jammed        // it does nothing any more, and does not end
)

// machine is one instance at the provider, and the result it may have sent. When it is gone its result may live on.
type machine struct {
	phase   phase
	attempt uint8 // from 1; 0: the slot is free
	holds   bool  // its claim was granted
	mail    bool  // its result is on the way, and may arrive more than once
	known   bool  // its creation was answered
	listed  bool  // the sweep has it on its list
}

type attemptState uint8

// The states of an attempt in the store.
const (
	none     attemptState = iota
	intended              // committed; its machine is asked for
	claimed               // a machine holds the claim
	over                  // given up or refused, or its result was accepted
)

type refusal uint8

// What a provider has said to an attempt.
const (
	unrefused refusal = iota
	notNow            // it is not known whether there is a machine all the same, of an answer that was lost
	notEver           // the same
	refused           // the attempt is over for that
)

type decision uint8

// The states of a job.
const (
	open decision = iota
	succeeded
	failed
)

// server is one process. Everything it knows but where it is in a call is in the store.
type server struct {
	calling uint8 // the attempt it is about to send a create for, or waits for the answer to; 0: none
	waiting bool
	first   bool // it has committed the intent itself, and sends the create for the first time
}

// state is everything at one moment. It is comparable, so that states can be counted.
type state struct {
	job      decision
	current  uint8 // the attempt that counts, from 1; 0: none yet
	attempt  [attempts]attemptState
	inFlight [attempts]uint8 // creates that the provider has not carried out or lost yet
	sent     [attempts]uint8
	machine  [machines]machine
	server   [2]server
	sweep    bool  // the sweep is between its two looks
	seenLive uint8 // what the sweep has read of the store, when it reads that first: the live attempts, as bits
	left     [4]uint8
	accepted uint8           // results, at most 2
	started  [attempts]uint8 // how often the command was started, at most 2 each

	// Where the job may run, and what became of that. Places are numbered from 1, and sets of them are bits.
	place   [attempts]uint8   // where the machine of each attempt is asked for
	refusal [attempts]refusal //
	free    [attempts]bool    // it is counted as one for which no machine was made
	made    [attempts]bool    // one was made, whatever became of it
	closed  uint8             // the places that the job is not to be launched on any more, by the store
	known   uint8             // the same, by what the server remembers
	never   uint8             // those that have refused it for good
	dear    uint8             // those that it has no money for
}

// canonical returns the state with its machines in one order: which slot a machine is in means nothing.
func (s state) canonical() state {
	for i, m := range s.machine {
		if m.phase == absent {
			m.listed, m.known = false, false
			if !m.mail {
				m = machine{}
			}
			s.machine[i] = m
		}
	}
	for i := 1; i < machines; i++ {
		for j := i; j > 0 && compare(s.machine[j], s.machine[j-1]) > 0; j-- {
			s.machine[j], s.machine[j-1] = s.machine[j-1], s.machine[j]
		}
	}
	return s
}

func compare(x, y machine) int { return cmp.Compare(x.number(), y.number()) }

func (m machine) number() int {
	n := int(m.phase)<<8 | int(m.attempt)<<4
	for i, bit := range []bool{m.holds, m.mail, m.known, m.listed} {
		if bit {
			n |= 1 << i
		}
	}
	return n
}

// live reports whether an attempt may still get somewhere.
func (s *state) live(attempt uint8) bool {
	return attempt > 0 && s.job == open && s.current == attempt && (s.attempt[attempt-1] == intended || s.attempt[attempt-1] == claimed)
}

// exists reports whether an attempt has a machine at this moment.
func (s *state) exists(attempt uint8) bool {
	for _, m := range s.machine {
		if m.phase != absent && m.attempt == attempt {
			return true
		}
	}
	return false
}

// wanted reports whether a machine is, or may become, the one that a live attempt runs on.
func (s *state) wanted(m *machine) bool {
	return s.live(m.attempt) && (s.attempt[m.attempt-1] == intended || m.holds)
}

// settled reports whether this is a good end: the job is decided, and nothing is left or still to come.
func (s *state) settled() bool {
	for i := range s.machine {
		if s.machine[i].phase != absent {
			return false
		}
	}
	return s.job != open && s.inFlight == [attempts]uint8{}
}
