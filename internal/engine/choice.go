package engine

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// A job names where it may run: one provider, or several in the order of its preference, each with a region if need be:
// "fly:ams,fly:fra,docker". Jobs of one queue that name the same wait in one lane, so that a lane of a million of them is
// looked at when one of its providers has room, and not otherwise. Which of its choices a job gets is decided when it is
// launched: the first that has room and does not refuse machines of its size. What a provider refuses for good it is not
// asked for again by that job; what it refuses for now nobody asks it for, for a while: see [refusal].

// choice is a place where a job may run.
type choice struct{ provider, region string }

func (c choice) String() string {
	if c.region == "" {
		return c.provider
	}
	return c.provider + ":" + c.region
}

// maxChoices bounds how many places a job may name.
const maxChoices = 8

var regionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// choicesOf returns the places that a job names, in their order. They were checked when it was submitted.
func choicesOf(named string) []choice {
	choices := make([]choice, 0, strings.Count(named, ",")+1)
	for part := range strings.SplitSeq(named, ",") {
		provider, region, _ := strings.Cut(strings.TrimSpace(part), ":")
		choices = append(choices, choice{provider, region})
	}
	return choices
}

// CheckProviders checks the places that somebody names, of these providers, and returns them as they are kept. Its errors
// are about the field. absent says why there are no others of these names; it may be nil.
func CheckProviders(field, named string, providers []string, absent map[string]string) (string, error) {
	choices := choicesOf(named)
	if len(choices) > maxChoices {
		return "", fault.Field(field, "names %d places; at most %d are allowed", len(choices), maxChoices)
	}
	texts := make([]string, len(choices))
	for i, c := range choices {
		texts[i] = c.String()
		known := slices.Contains(providers, c.provider)
		switch {
		case !known && absent[c.provider] != "":
			return "", fault.Field(field, "%s cannot be used: %s", c.provider, absent[c.provider])
		case !known:
			return "", fault.Field(field, "there is no provider %.64q; the providers are %s. Several are written as "+
				"first,second and a region as provider:region", c.provider, strings.Join(slices.Sorted(slices.Values(providers)), ", "))
		case strings.Contains(c.region, ":") || strings.HasSuffix(named, ":") || c.region != "" && !regionName.MatchString(c.region):
			return "", fault.Field(field, "%.80q is not a region of %s: 1 to 63 letters, digits, '.', '_' and '-'", c.region, c.provider)
		case slices.Contains(choices[:i], c):
			return "", fault.Field(field, "%s is named twice", c)
		}
	}
	return strings.Join(texts, ","), nil
}

// forGood reports whether a refusal will not pass by waiting: the job as it is written cannot run there.
func forGood(kind fault.Kind) bool { return kind == fault.Invalid || kind == fault.Unsupported }

// refusedForGood reports whether a job was told that it can never run there.
func refusedForGood(refusals []dayfly.Refusal, c choice) bool {
	return slices.ContainsFunc(refusals, func(r dayfly.Refusal) bool {
		return r.Provider == c.provider && r.Region == c.region && forGood(r.Kind)
	})
}

// choosy reports whether a job does not run at all of the places that its lane is for.
func choosy(job *store.Job) bool {
	return slices.ContainsFunc(job.Refusals, func(r dayfly.Refusal) bool { return forGood(r.Kind) })
}

// withRefusals returns what was known, with what is new: the last of each choice.
func withRefusals(known []dayfly.Refusal, news ...dayfly.Refusal) []dayfly.Refusal {
	if len(news) == 0 {
		return known
	}
	all := slices.Clone(known)
	for _, r := range news {
		all = slices.DeleteFunc(all, func(k dayfly.Refusal) bool { return k.Provider == r.Provider && k.Region == r.Region })
		all = append(all, r)
	}
	return all
}

// open returns the choices of a job that have not refused it for good.
func open(job *store.Job, refusals []dayfly.Refusal) []choice {
	return slices.DeleteFunc(choicesOf(job.Provider), func(c choice) bool { return refusedForGood(refusals, c) })
}

// selectChoice picks where a job is launched: the first of its choices that has room and whose gates let it through. passed are
// those before it, with the reason of each.
func selectChoice(choices []choice, job *store.Job, room map[string]int, gates map[string][]*gate, now time.Time) (picked choice, passed []dayfly.Refusal, ok bool) {
	for _, c := range choices {
		if refusedForGood(job.Refusals, c) {
			continue
		}
		why := dayfly.Refusal{Provider: c.provider, Region: c.region, Kind: fault.Exhausted, At: now.UTC()}
		switch left, configured := room[c.provider]; {
		case !configured:
			why.Message = "It is not configured any more."
		case left <= 0:
			why.Message = "It has as many machines as it may have."
		default:
			shut := pass(gates[c.provider], job, c.region)
			if shut == nil {
				return c, passed, true
			}
			why.Message = shut.why
			if shut.all {
				why.Kind = fault.Denied
			}
		}
		passed = append(passed, why)
	}
	return choice{}, nil, false
}

// passedOver says in a sentence which choices a job did not get.
func passedOver(passed []dayfly.Refusal) string {
	if len(passed) == 0 {
		return ""
	}
	texts := make([]string, len(passed))
	for i, r := range passed {
		texts[i] = fmt.Sprintf("%s was passed over: %s", choice{r.Provider, r.Region}, r.Message)
	}
	return strings.Join(texts, " ")
}

// refusalOf is what a provider said to a flight, as it is kept on the job.
func refusalOf(f *flight, kind fault.Kind, message string, now time.Time) *dayfly.Refusal {
	if kind == fault.Unauthenticated {
		kind = fault.Denied
	}
	return &dayfly.Refusal{Provider: f.provider, Region: f.region, Kind: kind, Message: message, At: now.UTC()}
}

// elsewhere reports whether a job that was refused for now has another choice that does not refuse it: one that takes it
// at once, or as soon as it may have one machine more.
func (e *Engine) elsewhere(f *flight) bool {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	size := sizeOfJob(f.job)
	for _, c := range open(f.job, f.job.Refusals) {
		if c == (choice{f.provider, f.region}) || e.providers[c.provider] == nil {
			continue
		}
		refuses := slices.ContainsFunc(e.refusals[c.provider], func(r *refusal) bool {
			return r.covers(size, c.region) && now.Before(r.until)
		})
		if !refuses {
			return true
		}
	}
	return false
}

// roomFor returns how many more machines the choices of a lane have room for, and whether one of them refuses some.
func roomFor(choices []choice, room map[string]int, gates map[string][]*gate) (n int, gated bool) {
	counted := map[string]bool{}
	for _, c := range choices {
		if room[c.provider] > 0 && !counted[c.provider] {
			counted[c.provider] = true
			n += room[c.provider]
			gated = gated || len(gates[c.provider]) > 0
		}
	}
	return n, gated
}
