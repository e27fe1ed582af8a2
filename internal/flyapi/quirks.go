package flyapi

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Quirks make the service misbehave as Fly does on a bad day, so that clients can be tried. The zero value of each field
// is good behavior.
type Quirks struct {
	// RateLimits answers 429 above Fly's limits: for one action and one machine, or app where none is named, 1 request a
	// second with a burst of 3; for getting a machine 5 a second with a burst of 10.
	RateLimits bool
	// NoRoom are the regions that have no room, with what they say: host (409), region (422) or volume (412).
	NoRoom map[string]string
	// NoRoomShare is the share of creates, from 0 to 1, that are refused with NoRoomClass wherever they go.
	NoRoomShare float64
	NoRoomClass string
	// TimeoutShare is the share of creates that are carried out and answered with 408.
	TimeoutShare float64
	// HiddenFor is how long a machine that was just created is answered with 404.
	HiddenFor time.Duration
}

// quirks is what the service asks before and after it does something. A nil *quirks behaves.
type quirks struct {
	Quirks
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]bucket // guarded by mu; by action and what it is about
}

// bucket is what is left of a rate limit.
type bucket struct {
	tokens float64
	at     time.Time
}

func newQuirks(q *Quirks, now func() time.Time) *quirks {
	if q == nil {
		return nil
	}
	return &quirks{Quirks: *q, now: now, buckets: map[string]bucket{}}
}

// maxBuckets bounds what is remembered; full buckets are dropped first.
const maxBuckets = 10_000

// before refuses a request that is above its rate.
func (q *quirks) before(rt *route, r *request) error {
	if q == nil || !q.RateLimits {
		return nil
	}
	rate, burst := 1.0, 3.0
	if rt.action == "get" {
		rate, burst = 5, 10
	}
	about := r.PathValue("id")
	if about == "" {
		about = r.PathValue("app")
	}
	key := rt.action + " " + about
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	b, known := q.buckets[key]
	if !known {
		if len(q.buckets) >= maxBuckets {
			clear(q.buckets)
		}
		b = bucket{tokens: burst, at: now}
	}
	b.tokens = min(burst, b.tokens+rate*now.Sub(b.at).Seconds())
	b.at = now
	refused := b.tokens < 1
	if !refused {
		b.tokens--
	}
	q.buckets[key] = b
	if refused {
		p := refuse(http.StatusTooManyRequests, "resource_exhausted: rate limit exceeded")
		p.after = 1
		return p
	}
	return nil
}

// roomIn returns the first of the regions that has room, or what the last of them says.
func (q *quirks) roomIn(regions []string) (string, error) {
	if q == nil {
		return regions[0], nil
	}
	if q.NoRoomShare > 0 && rand.Float64() < q.NoRoomShare {
		return "", noRoom(q.NoRoomClass)
	}
	var last error
	for _, region := range regions {
		if last = q.refuses(region); last == nil {
			return region, nil
		}
	}
	return "", last
}

// refuses returns what a region without room says, or nil.
func (q *quirks) refuses(region string) error {
	if q == nil || q.NoRoom[region] == "" {
		return nil
	}
	return noRoom(q.NoRoom[region])
}

// The classes of having no room.
const (
	noRoomHost   = "host"
	noRoomRegion = "region"
	noRoomVolume = "volume"
)

// NoRoomClasses returns what [Quirks] may say of a region without room.
func NoRoomClasses() []string { return []string{noRoomHost, noRoomRegion, noRoomVolume} }

// noRoom returns the refusal of a class, in Fly's words.
func noRoom(class string) error {
	switch class {
	case noRoomRegion:
		return refuse(http.StatusUnprocessableEntity, "could not find a candidate host with enough capacity").coded("insufficient_capacity")
	case noRoomVolume:
		return refuse(http.StatusPreconditionFailed, "failed_precondition: could not claim volume for machine: no capacity").coded("volume_placement_capacity")
	}
	return refuse(http.StatusConflict, "aborted: could not reserve resource for machine: insufficient memory available to fulfill request")
}

// afterCreate loses the answer of a create that has worked.
func (q *quirks) afterCreate() error {
	if q == nil || q.TimeoutShare == 0 || rand.Float64() >= q.TimeoutShare {
		return nil
	}
	return refuse(http.StatusRequestTimeout, "deadline_exceeded: upstream request timed out")
}

// hides reports whether a machine is so new that it is not to be found yet.
func (q *quirks) hides(m *record) bool {
	return q != nil && q.HiddenFor > 0 && q.now().Sub(m.Created) < q.HiddenFor
}

// check refuses quirks that make no sense.
func (q *Quirks) check() error {
	if q == nil {
		return nil
	}
	classes := NoRoomClasses()
	for region, class := range q.NoRoom {
		if !slices.Contains(classes, class) {
			return fault.Say(fault.Invalid, "region %s cannot be without room as %q; it can as one of %v", region, class, classes)
		}
	}
	switch {
	case q.NoRoomClass != "" && !slices.Contains(classes, q.NoRoomClass):
		return fault.Say(fault.Invalid, "creates cannot be refused as %q; they can as one of %v", q.NoRoomClass, classes)
	case q.NoRoomShare < 0 || q.NoRoomShare > 1 || q.TimeoutShare < 0 || q.TimeoutShare > 1:
		return fault.Say(fault.Invalid, "a share of creates is from 0 to 1")
	case q.HiddenFor < 0:
		return fault.Say(fault.Invalid, "a machine cannot be hidden for less than no time")
	}
	return nil
}
