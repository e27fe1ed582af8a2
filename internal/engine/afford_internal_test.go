package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// flat is what a place costs an hour, whatever the size and region; of a negative one nobody knows.
type flat machine.Rate

func (f flat) Price(machine.Size, string) (machine.Price, bool) {
	return machine.Price{Rate: machine.Rate(f)}, f >= 0
}

// The prices of these tests: an hour on cheap costs a dollar, on dear a hundred, on free nothing.
func tariffs() map[string]machine.Pricer {
	return map[string]machine.Pricer{
		"cheap": flat(machine.DollarPerHour), "dear": flat(100 * machine.DollarPerHour), "free": flat(0), "secret": flat(-1),
	}
}

func placesOf(refusals []dayfly.Refusal) string {
	var list []string
	for _, r := range refusals {
		list = append(list, choice{r.Provider, r.Region}.String())
	}
	return strings.Join(list, " ")
}

func TestPlacesThatACapDoesNotPayForAreKnownBeforeTheFirstLaunch(t *testing.T) {
	t.Parallel()
	e := &Engine{options: Options{Prices: tariffs()}}
	const dollar = machine.Dollar
	for _, c := range []struct {
		places  string
		most    machine.Money
		refused string // those that are passed over
		says    string // why none is left; "": one is
	}{
		{"dear,cheap", 0, "", ""},
		{"dear,cheap", 100 * dollar, "", ""},
		{"dear,cheap", dollar, "dear", ""},
		{"cheap,dear", dollar, "dear", ""},
		{"dear:x,dear:y,cheap:z", dollar, "dear:x dear:y", ""},
		{"secret,cheap", dollar, "secret", ""},
		{"secret,dear,free", 1, "secret dear", ""},
		{"dear", dollar, "dear", "$1.00 does not pay for one start on dear: at $100.00 an hour"},
		{"secret", dollar, "secret", "nobody knows what a machine of this size costs on secret"},
		{"dear,secret:x", dollar, "dear secret:x", "is enough for none of the places. dear: Its max_cost of $1.00"},
		{"dear,cheap", dollar / 1000, "dear cheap", "is enough for none of the places. dear: Its max_cost of $0.001"},
	} {
		spec := &dayfly.JobSpec{Command: []string{"true"}, Provider: c.places, MaxCost: c.most}
		fillDefaults(spec)
		refusals := e.tooDear(spec, time.Unix(1000, 0))
		if got := placesOf(refusals); got != c.refused {
			t.Errorf("$%s on %s: passed over are %q, want %q", c.most, c.places, got, c.refused)
		}
		for _, r := range refusals {
			if !forGood(r.Kind) || r.Reason != dayfly.ReasonCostLimit || r.Message == "" || r.At.IsZero() {
				t.Errorf("$%s on %s: got the refusal %+v, want one for good that says it is for the money, why and when", c.most, c.places, r)
			}
		}
		err := e.checkCost(spec)
		if refused := c.says != ""; refused != (err != nil) || refused && (fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("$%s on %s: got %v, want an error that says %q, or none if that is empty", c.most, c.places, err, c.says)
		}
	}
}

func TestAJobWithoutMoneyForAPlaceGoesOnToTheNextOrFails(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	dear := &budget{most: machine.Dollar, spent: machine.Dollar / 2, price: &machine.Price{Rate: 100 * machine.DollarPerHour}, full: time.Hour, least: time.Minute}
	unknown := &budget{most: machine.Dollar, full: time.Hour, least: time.Minute}
	full := dayfly.Refusal{Provider: "b", Kind: fault.Exhausted, Message: "It is full."}
	never := dayfly.Refusal{Provider: "b", Kind: fault.Invalid, Message: "There is no such image."}
	poor := dayfly.Refusal{Provider: "b", Kind: fault.Unsupported, Reason: dayfly.ReasonCostLimit, Message: "It is too dear."}
	for _, c := range []struct {
		what   string
		places string
		budget *budget
		known  []dayfly.Refusal
		to     dayfly.State
		reason dayfly.Reason
		kept   string // the places of the refusals that the job has then
		says   []string
	}{
		{"another place is left", "a,b", dear, nil, dayfly.Queued, "", "a", []string{"a was passed over: Of its max_cost of $1.00 it has spent $0.50"}},
		{"another place is left, which was full", "a,b", dear, []dayfly.Refusal{full}, dayfly.Queued, "", "b a", []string{"a was passed over"}},
		{"nobody knows the price, and another place is left", "a,b", unknown, nil, dayfly.Queued, "", "a", []string{"a was passed over: Nobody knows"}},
		{"there is no other", "a", dear, nil, dayfly.Failed, dayfly.ReasonCostLimit, "",
			[]string{"Its 2 attempts cost $0.50 of the $1.00 that it may cost", "a higher max_cost"}},
		{"nobody knows the price, and there is no other", "a", unknown, nil, dayfly.Failed, dayfly.ReasonCostLimit, "", []string{"nobody knows", "on a any more"}},
		{"the other was too dear", "b,a", dear, []dayfly.Refusal{poor}, dayfly.Failed, dayfly.ReasonCostLimit, "b a",
			[]string{"not enough at any of its places: b: It is too dear.; a: Of its max_cost", "a higher max_cost"}},
		{"the other will never run it", "b,a", dear, []dayfly.Refusal{never}, dayfly.Failed, dayfly.ReasonRefused, "b a",
			[]string{"at none of its places: b: There is no such image.; a: Of its max_cost"}},
	} {
		job := &store.Job{ID: "job_1", Version: 7, State: dayfly.Queued, Provider: c.places, Number: 2, Refusals: c.known}
		before := slices.Clone(c.known)
		m := passOver(job, choice{provider: "a"}, c.budget, now)
		if m.JobID != job.ID || m.Version != 7 || m.From != dayfly.Queued || m.To != c.to || m.Reason != c.reason || m.To.Terminal() == m.FinishedAt.IsZero() {
			t.Errorf("%s: got %+v, want it from queued to %s (%s)", c.what, m, c.to, c.reason)
		}
		if got := placesOf(m.Refusals); got != c.kept {
			t.Errorf("%s: refusals of %q are kept, want %q", c.what, got, c.kept)
		}
		for _, text := range c.says {
			if !strings.Contains(m.Message, text) {
				t.Errorf("%s: it says %q, want %q in it", c.what, m.Message, text)
			}
		}
		if !slices.Equal(job.Refusals, before) {
			t.Errorf("%s: the job that was read has changed: %+v", c.what, job.Refusals)
		}
	}
}
