package pool_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestOptionsThatCannotBeMeantAreRefusedByName(t *testing.T) {
	t.Parallel()
	for field, options := range map[string][]pool.Options{
		"Name":            {{Name: "Thumbnails"}, {Name: "1a"}, {Name: "a_b"}, {Name: "a-name-of-more-than-48-characters-is-refused-by-us"}},
		"Min":             {{Min: -1}, {Min: 3, Max: 2}},
		"Max":             {{Max: -1}},
		"Concurrency":     {{Concurrency: -1}},
		"Prewarm":         {{Prewarm: -0.1}, {Prewarm: 1.1}, {Prewarm: math.NaN()}},
		"Packing":         {{Packing: 2}, {Packing: -1}},
		"MaxQueued":       {{MaxQueued: -1}},
		"Idle":            {{Idle: -time.Second}},
		"MinIdle":         {{MinIdle: -time.Second}},
		"Patience":        {{Patience: -time.Second}, {Patience: pool.Never - 1}},
		"BootTimeout":     {{BootTimeout: pool.Never}, {BootTimeout: -time.Second}},
		"ShutdownTimeout": {{ShutdownTimeout: pool.Never}},
		"Retire":          {{Retire: -time.Second}},
	} {
		for _, o := range options {
			_, err := pool.New(&cloud{}, &o)
			refused, ok := errors.AsType[*fault.FieldError](err)
			if !ok || refused.Field != field || fault.Of(err) != fault.Invalid {
				t.Errorf("New with %s wrong: got %v, want an invalid %s", field, err, field)
			}
		}
	}
}

func TestOptionsThatCanBeMeantAreTaken(t *testing.T) {
	t.Parallel()
	for _, o := range []*pool.Options{
		nil, {}, {Name: "a"}, {Name: "thumbnails-2"}, {Min: 30}, {Min: 2, Max: 2}, {Prewarm: 1},
		{Idle: pool.Never, MinIdle: pool.Never, Patience: pool.Never}, {Min: 5, Nested: true},
	} {
		if _, err := pool.New(&cloud{}, o); err != nil {
			t.Errorf("New with %+v: got %v, want a pool", o, err)
		}
	}
}
