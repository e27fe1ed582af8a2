package pool

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestTheFirstOnTheShelfIsTheOneToUseWhateverWasPutAndTaken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := shelf{packing: rapid.SampledFrom([]Packing{LeastLoaded, FewestRunners}).Draw(t, "packing")}
		var there []*member
		for number := range rapid.IntRange(1, 200).Draw(t, "steps") {
			var m *member
			if len(there) > 0 {
				m = there[rapid.IntRange(0, len(there)-1).Draw(t, "member")]
			}
			switch what := rapid.IntRange(0, 4).Draw(t, "what"); {
			case m == nil || what == 0:
				m = &member{number: uint64(number), place: -1, busy: rapid.IntRange(0, 9).Draw(t, "busy")}
				there = append(there, m)
				s.put(m)
			case what == 1:
				s.take(m)
				s.take(m) // it is not there any more
				there = slices.DeleteFunc(there, func(other *member) bool { return other == m })
			case what == 2:
				m.state = retiring
				s.put(m)
			default:
				m.busy = rapid.IntRange(0, 9).Draw(t, "busy")
				s.put(m)
			}
			var want *member
			for _, m := range there {
				if want == nil || s.before(m, want) {
					want = m
				}
			}
			if got := s.first(); got != want {
				t.Fatalf("the first is %+v, want %+v", got, want)
			}
		}
	})
}
