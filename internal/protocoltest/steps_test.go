package protocoltest

// What can go wrong.
const (
	startedTwice  = "the command is started twice in one attempt"
	acceptedTwice = "two results are accepted"
	foreign       = "a result is accepted of a machine that does not hold the current attempt"
	friendlyFire  = "the sweep destroys a machine that a live attempt may need"
	twoPlaces     = "the job goes on to another place while the one that has refused it has its machine, or makes it"
	tooCheap      = "an attempt is counted as free although a machine was made for it"
	askedAgain    = "a place is asked again that has refused the job for good"
	untried       = "the job is refused although there is a place that has not refused it for good"
	noWayOut      = "there is no way to an end without machines"
)

// step is one thing that can happen, and what is wrong with it, if anything is.
type step struct {
	what  string
	next  state
	wrong string
}

// walk collects the steps from one state.
type walk struct {
	rules  rules
	faults faults
	from   state
	steps  []step
}

// can notes that something can happen: change makes the next state of this one and returns what is wrong with it.
func (w *walk) can(what string, change func(s *state) (wrong string)) {
	next := w.from
	wrong := change(&next)
	switch {
	case wrong != "":
	case next.accepted > 1:
		wrong = acceptedTwice
	case next.started[0] > 1 || next.started[1] > 1:
		wrong = startedTwice
	case next.free[0] && next.made[0] || next.free[1] && next.made[1]:
		wrong = tooCheap
	}
	w.steps = append(w.steps, step{what, next.canonical(), wrong})
}

// always is can for what is right whatever comes of it.
func (w *walk) always(what string, change func(s *state)) {
	w.can(what, func(s *state) string { change(s); return "" })
}

// all returns everything that can happen next.
func (w *walk) all() []step {
	w.engine()
	for i := range w.faults.servers {
		w.calls(i)
	}
	w.doubts()
	w.provider()
	for i := range w.from.machine {
		w.machine(i)
		w.delivery(i)
	}
	w.sweeps()
	return w.steps
}

// maxSends is how often a create may be sent: again for the first attempt, whose answer may be lost.
func maxSends(attempt uint8) uint8 {
	if attempt == 1 {
		return 2
	}
	return 1
}

// engine is what any server may decide by what the store says. Its timers may run out at any time, so it may give up an
// attempt that is doing well; that must do no more harm than to waste it.
func (w *walk) engine() {
	s := &w.from
	if s.job != open {
		return
	}
	if s.live(s.current) {
		w.always("give up the attempt", func(s *state) { s.attempt[s.current-1] = over })
		return
	}
	if s.current == attempts {
		w.always("give up the job", func(s *state) { s.job = failed })
		return
	}
	for i := range w.faults.servers {
		if s.server[i].calling == 0 {
			w.launches(i)
		}
	}
}

// calls is one server's part in making machines. A call that it is about to make when it stands still may be made at
// any time later.
func (w *walk) calls(i int) {
	s := &w.from
	srv := s.server[i]
	idle := func(s *state) { s.server[i] = server{} }
	if s.left[0] > 0 && (srv.calling > 0 || s.sweep || s.known != 0) {
		w.always("crash", func(s *state) {
			idle(s)
			s.endSweep()
			s.forgetRefusals()
			s.left[0]--
		})
	}
	switch {
	case srv.calling == 0:
		if s.current > 0 && s.attempt[s.current-1] == intended && s.live(s.current) && s.sent[s.current-1] < maxSends(s.current) &&
			s.refusal[s.current-1] == unrefused {
			w.always("decide to send the create again", func(s *state) { s.server[i].calling = s.current })
		}
	case !srv.waiting && s.sent[srv.calling-1] < maxSends(srv.calling):
		w.always("send the create", func(s *state) {
			s.inFlight[srv.calling-1]++
			s.sent[srv.calling-1]++
			s.server[i].waiting = true
		})
	default:
		w.always("get no answer to the create", idle)
		w.refuses(i)
		for k := range s.machine {
			if s.machine[k].phase != absent && s.machine[k].attempt == srv.calling {
				w.always("get the answer to the create", func(s *state) {
					idle(s)
					s.machine[k].known = true
				})
			}
		}
	}
}

// provider carries out what it was asked for, whenever it likes.
func (w *walk) provider() {
	s := &w.from
	for a := range s.inFlight {
		if s.inFlight[a] == 0 {
			continue
		}
		w.always("lose the create", func(s *state) { s.inFlight[a]-- })
		free, exists := -1, false
		for k, m := range s.machine {
			if m == (machine{}) {
				free = k
			}
			exists = exists || m.phase != absent && int(m.attempt) == a+1
		}
		if free >= 0 && !(exists && w.rules.uniqueNames) {
			w.always("make the machine", func(s *state) {
				s.inFlight[a]--
				s.made[a] = w.faults.places > 0
				s.machine[free] = machine{phase: booting, attempt: uint8(a + 1)}
			})
		}
	}
}

// machine is what one machine does, and what happens to it.
func (w *walk) machine(i int) {
	m := w.from.machine[i]
	if m.phase == absent {
		return
	}
	gone := func(s *state) { s.machine[i].phase = absent }
	switch m.phase {
	case booting:
		w.claim(i)
	case granted:
		w.can("hear that the claim was granted, and start the command", func(s *state) string { return s.start(i) })
		// Or the answer is lost, and the same machine asks again: which changes nothing in the store.
	case working:
		w.always("end the command and send the result", func(s *state) { s.machine[i].phase, s.machine[i].mail = done, true })
	case done:
		w.always("exit", gone)
	}
	if w.rules.ownEnd && !w.from.wanted(&m) {
		w.always("end by itself, unwanted", gone)
	}
	if w.from.left[1] > 0 && m.phase != done {
		w.always("be killed by the provider", func(s *state) {
			gone(s)
			s.left[1]--
		})
	}
	if w.from.left[2] > 0 && m.phase != jammed {
		w.always("jam", func(s *state) {
			s.machine[i].phase = jammed
			s.left[2]--
		})
	}
}

// claim is what a machine that has booted does first.
func (w *walk) claim(i int) {
	m := w.from.machine[i]
	state0 := w.from.attempt[m.attempt-1]
	switch granting := w.from.live(m.attempt) && (state0 == intended || state0 == claimed && !w.rules.exclusive); {
	case !w.rules.claim:
		w.can("start the command without asking", func(s *state) string {
			if s.live(m.attempt) && state0 == intended {
				s.attempt[m.attempt-1], s.machine[i].holds = claimed, true
			}
			return s.start(i)
		})
	case granting:
		w.always("be granted the claim", func(s *state) {
			s.attempt[m.attempt-1] = claimed
			s.machine[i].holds, s.machine[i].phase = true, granted
		})
	default:
		w.always("be refused the claim, and exit", func(s *state) { s.machine[i].phase = absent })
	}
}

func (s *state) start(i int) (wrong string) {
	m := &s.machine[i]
	m.phase = working
	s.started[m.attempt-1]++
	return ""
}

// delivery is what may become of a result on the way. It stays on the way when it has arrived, because it is sent again
// until its answer arrives, too.
func (w *walk) delivery(i int) {
	m := w.from.machine[i]
	if !m.mail {
		return
	}
	w.always("cease to send the result", func(s *state) { s.machine[i].mail = false })
	s := &w.from
	decided := s.job != open
	running := s.current > 0 && s.attempt[s.current-1] == claimed
	holder := running && s.current == m.attempt && m.holds
	accepted := holder
	if !w.rules.fence {
		accepted = running
	}
	if decided {
		accepted = !w.rules.final
	}
	if !accepted {
		return // it is refused, which changes nothing
	}
	w.can("have the result accepted", func(s *state) string {
		s.accepted++
		s.job = succeeded
		s.attempt[s.current-1] = over
		if !holder && !decided {
			return foreign
		}
		return ""
	})
}

// sweeps looks for machines that nobody remembers, in two steps between which anything may happen.
func (w *walk) sweeps() {
	s := &w.from
	visible := func(m *machine) bool { return m.phase != absent && (w.rules.sweepLists || m.known) }
	switch {
	case !s.sweep && w.rules.listFirst:
		w.always("list the machines", func(s *state) {
			s.sweep = true
			for i := range s.machine {
				s.machine[i].listed = visible(&s.machine[i])
			}
		})
	case !s.sweep:
		w.always("read the store", func(s *state) {
			s.sweep = true
			for a := range uint8(attempts) {
				if s.live(a + 1) {
					s.seenLive |= 1 << a
				}
			}
		})
	case w.rules.listFirst:
		w.destroy(func(m *machine) bool { return m.listed && !s.wanted(m) })
	default:
		w.destroy(func(m *machine) bool {
			lives := s.seenLive&(1<<(m.attempt-1)) != 0
			return visible(m) && (!lives || s.attempt[m.attempt-1] == claimed && !m.holds)
		})
	}
}

// destroy is the sweep's second step.
func (w *walk) destroy(stray func(m *machine) bool) {
	w.can("destroy the strays", func(s *state) (wrong string) {
		for i := range s.machine {
			m := &s.machine[i]
			if m.phase == absent || !stray(m) {
				continue
			}
			if s.wanted(m) {
				wrong = friendlyFire
			}
			m.phase = absent
		}
		s.endSweep()
		return wrong
	})
}

func (s *state) endSweep() {
	s.sweep, s.seenLive = false, 0
	for i := range s.machine {
		s.machine[i].listed = false
	}
}
