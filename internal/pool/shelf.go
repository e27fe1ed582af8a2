package pool

// shelf holds the runners that have a free slot, the next to be used in front. It is a binary heap, written out because it is
// on the path of every call.
type shelf struct {
	packing Packing
	members []*member
}

// before reports whether a is to be used before b. Among equals the oldest is, so that the same ones stay idle and can go.
func (s *shelf) before(a, b *member) bool {
	if (a.state == retiring) != (b.state == retiring) {
		return b.state == retiring
	}
	if a.busy != b.busy {
		return (a.busy < b.busy) == (s.packing == LeastLoaded)
	}
	return a.number < b.number
}

func (s *shelf) first() *member {
	if len(s.members) == 0 {
		return nil
	}
	return s.members[0]
}

// put adds the member, or finds its place anew.
func (s *shelf) put(m *member) {
	if m.place < 0 {
		m.place = len(s.members)
		s.members = append(s.members, m)
	}
	if !s.down(m.place) {
		s.up(m.place)
	}
}

// take removes the member, if it is there.
func (s *shelf) take(m *member) {
	if m.place < 0 {
		return
	}
	i, last := m.place, len(s.members)-1
	s.swap(i, last)
	s.members[last] = nil
	s.members = s.members[:last]
	m.place = -1
	if i < last && !s.down(i) {
		s.up(i)
	}
}

func (s *shelf) swap(i, j int) {
	s.members[i], s.members[j] = s.members[j], s.members[i]
	s.members[i].place, s.members[j].place = i, j
}

func (s *shelf) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !s.before(s.members[i], s.members[parent]) {
			return
		}
		s.swap(i, parent)
		i = parent
	}
}

// down reports whether the member at i has moved.
func (s *shelf) down(i int) bool {
	start := i
	for {
		child := 2*i + 1
		if child >= len(s.members) {
			break
		}
		if right := child + 1; right < len(s.members) && s.before(s.members[right], s.members[child]) {
			child = right
		}
		if !s.before(s.members[child], s.members[i]) {
			break
		}
		s.swap(i, child)
		i = child
	}
	return i != start
}
