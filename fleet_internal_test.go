package dayfly

import (
	"testing"
	"time"
)

func TestCallsWaitForAFleetsServerForHalfAMinuteAndInItsLineForLonger(t *testing.T) {
	t.Parallel()
	client, err := NewClient("http://127.0.0.1:7700", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ given, want PoolOptions }{
		{PoolOptions{}, PoolOptions{BootTimeout: 5 * time.Minute, Patience: 30 * time.Second}},
		{PoolOptions{BootTimeout: time.Hour}, PoolOptions{BootTimeout: time.Hour, Patience: 30 * time.Second}},
		{PoolOptions{BootTimeout: time.Second}, PoolOptions{BootTimeout: time.Second, Patience: time.Second}},
		{PoolOptions{Patience: time.Hour}, PoolOptions{BootTimeout: 5 * time.Minute, Patience: time.Hour}},
		{PoolOptions{Patience: Never}, PoolOptions{BootTimeout: 5 * time.Minute, Patience: Never}},
	} {
		got := c.given
		if err := client.Fleet("thumbnails", "docker", nil).complete(&got); err != nil || got.BootTimeout != c.want.BootTimeout || got.Patience != c.want.Patience {
			t.Errorf("of BootTimeout %v and Patience %v: got %v and %v, error %v, want %v and %v", c.given.BootTimeout, c.given.Patience,
				got.BootTimeout, got.Patience, err, c.want.BootTimeout, c.want.Patience)
		}
	}
}
