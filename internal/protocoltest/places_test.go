package protocoltest

// These steps are those of a job that names several places, any of which may refuse it: for now, for want of room or of
// credentials, or for good. A place may do either at any time, also after it has made the machine and the answer to that was
// lost: credentials are looked at before names.

// launches is what a server does with a job that waits.
func (w *walk) launches(i int) {
	s := &w.from
	if w.faults.places == 0 {
		w.can("commit the intent of another attempt", func(s *state) string { return w.launch(s, i, 1) })
		return
	}
	for place := uint8(1); place <= w.faults.places; place++ {
		if (s.closed|s.known)&bit(place) != 0 {
			continue
		}
		w.can("commit the intent of an attempt at a place", func(s *state) string { return w.launch(s, i, place) })
		if s.left[3] > 0 {
			w.can("pass over a place that is too dear for what the job may cost", func(s *state) string {
				s.left[3]--
				s.dear |= bit(place)
				return w.close(s, place)
			})
		}
	}
}

func bit(place uint8) uint8 { return 1 << (place - 1) }

func (w *walk) launch(s *state, i int, place uint8) (wrong string) {
	if s.never&bit(place) != 0 {
		wrong = askedAgain
	}
	for a := range s.current {
		if s.refusal[a] == refused && (s.exists(a+1) || s.inFlight[a] > 0) && w.rules.prompt {
			wrong = twoPlaces
		}
	}
	s.current++
	s.attempt[s.current-1] = intended
	if w.faults.places > 0 {
		s.place[s.current-1] = place
	}
	s.server[i] = server{calling: s.current, first: w.faults.places > 0}
	return wrong
}

// refuses is what a server may hear of a create that it waits for, and what it concludes.
func (w *walk) refuses(i int) {
	attempt := w.from.server[i].calling
	if w.from.left[3] == 0 || w.from.inFlight[attempt-1] == 0 {
		return
	}
	for _, said := range []refusal{notNow, notEver} {
		w.can(map[refusal]string{notNow: "be refused for now", notEver: "be refused for good"}[said], func(s *state) string {
			sure := s.server[i].first
			s.server[i] = server{}
			s.inFlight[attempt-1]--
			s.left[3]--
			switch {
			case !s.live(attempt) || s.attempt[attempt-1] != intended:
				return "" // it is over, or there is a machine, and that has claimed it
			case sure || !w.rules.patience:
				return w.refused(s, attempt, said, sure || !w.rules.bill)
			}
			s.refusal[attempt-1] = said
			return ""
		})
	}
}

// doubts is what becomes of an attempt that was refused after an answer had been lost.
func (w *walk) doubts() {
	attempt := w.from.current
	if attempt == 0 || !w.from.live(attempt) || w.from.attempt[attempt-1] != intended {
		return
	}
	said := w.from.refusal[attempt-1]
	if said == unrefused {
		return
	}
	if w.from.exists(attempt) {
		w.always("find the machine, and take the refusal for nothing", func(s *state) { s.refusal[attempt-1] = unrefused })
	} else if w.from.inFlight[attempt-1] == 0 || !w.rules.prompt {
		w.can("be told for a while that there is no machine", func(s *state) string {
			return w.refused(s, attempt, said, !w.rules.bill)
		})
	}
}

// refused ends an attempt because its place has refused it.
func (w *walk) refused(s *state, attempt uint8, said refusal, free bool) (wrong string) {
	s.attempt[attempt-1], s.refusal[attempt-1], s.free[attempt-1] = over, refused, free
	place := s.place[attempt-1]
	if said == notEver {
		s.never |= bit(place)
	}
	if said == notEver || !w.rules.kinds {
		return w.close(s, place)
	}
	return ""
}

// close keeps a job from a place for good, and ends the job if it was the last.
func (w *walk) close(s *state, place uint8) (wrong string) {
	if w.rules.durable {
		s.closed |= bit(place)
	} else {
		s.known |= bit(place)
	}
	all := uint8(1)<<w.faults.places - 1
	if s.closed|s.known == all || !w.rules.fallback {
		s.job = failed
		if s.dear|s.never != all {
			return untried
		}
	}
	return ""
}

// forgetRefusals is what a crash does to what only the server knew.
func (s *state) forgetRefusals() {
	s.known = 0
	for a, r := range s.refusal {
		if r != refused {
			s.refusal[a] = unrefused
		}
	}
}
