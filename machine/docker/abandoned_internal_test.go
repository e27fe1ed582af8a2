package docker

import (
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func TestOnlyWhatNobodyWaitsForIsAbandoned(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	ago := func(d time.Duration) int64 { return now.Add(-d).Unix() }
	ours := map[string]string{labelFitting: "debian:12"}
	list := []container.Summary{
		{ID: "old", State: container.StateCreated, Labels: ours, Created: ago(2 * time.Hour)},
		{ID: "being used", State: container.StateCreated, Labels: ours, Created: ago(time.Minute)},
		{ID: "from the future", State: container.StateCreated, Labels: ours, Created: ago(-time.Hour)},
		{ID: "running", State: container.StateRunning, Labels: ours, Created: ago(2 * time.Hour)},
		{ID: "a machine", State: container.StateCreated, Labels: map[string]string{labelOwner: "df"}, Created: ago(2 * time.Hour)},
	}
	if got, want := abandoned(list, now), []string{"old"}; !slices.Equal(got, want) {
		t.Errorf("abandoned: got %v, want %v", got, want)
	}
}
