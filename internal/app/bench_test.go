package app_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/app"
)

// BenchmarkStart measures what every command without a server pays before and after its own work: opening the state
// directory, serving, one answered request, and closing.
func BenchmarkStart(b *testing.B) {
	c := app.Default()
	c.DataDir = filepath.Join(b.TempDir(), "data")
	c.Listen = []string{"127.0.0.1:0"}
	for b.Loop() {
		s, err := app.Start(b.Context(), c, &app.StartOptions{Embedded: true})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		client, err := dayfly.NewClient(s.LocalURL(), &dayfly.ClientOptions{Token: s.Token()})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.Version(b.Context()); err != nil {
			b.Fatal(err)
		}
		stop()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
