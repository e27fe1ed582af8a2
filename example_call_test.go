package dayfly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// Functions that can be called elsewhere are declared in package-level variables.
var (
	Shout  = dayfly.Func("example/shout", shout)
	Words  = dayfly.Stream("example/words", words)
	Resize = dayfly.Func("example/resize", resize)
	Find   = dayfly.Func("example/find", find)
	Listen = dayfly.Func("example/listen", listen)
)

func shout(_ context.Context, text string) (string, error) {
	return strings.ToUpper(text), nil
}

func words(_ context.Context, text string, yield func(string) error) error {
	for word := range strings.FieldsSeq(text) {
		if err := yield(word); err != nil {
			return err // the caller has left its loop
		}
	}
	return nil
}

// Picture is an argument and a result with a file in it.
type Picture struct {
	Name string
	Data io.ReadCloser // streamed
}

func resize(ctx context.Context, in Picture) (Picture, error) {
	dayfly.ReportProgress(ctx, 0.5, "half of it")
	// What is a command with pipes in earnest is a reader in front of a reader here.
	return Picture{Name: "small " + in.Name, Data: io.NopCloser(io.LimitReader(in.Data, 5))}, nil
}

func find(_ context.Context, name string) (int, error) {
	return 0, fmt.Errorf("there is no %s: %w", name, fault.NotFound)
}

func listen(ctx context.Context, topic string) (string, error) {
	slog.InfoContext(ctx, "listening", "topic", topic) // goes to the caller's logger
	select {
	case <-dayfly.Draining(ctx): // the runner will stop soon
	case <-ctx.Done(): // the handle was closed
	}
	return "", ctx.Err()
}

// A whole program. The runner is the same program, in which Main serves calls and does not return.
func Example() {
	// func main() {
	dayfly.Main()

	pool, err := dayfly.NewPool(dayfly.Local(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	loud, err := Shout.Call(context.Background(), pool, "hello from afar")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(loud)
	// }

	// Output: HELLO FROM AFAR
}

// Runners come when calls need them and go when they do not.
func ExampleNewPool() {
	pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{
		Name:        "thumbnails",
		Min:         1,               // always one that is warm
		Max:         10,              // never more than ten machines
		Concurrency: 4,               // calls at once on each of them
		Idle:        5 * time.Minute, // without work, before one is stopped
		Timeout:     time.Minute,     // for a call whose context has no deadline
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(pool.Name())
	// Output: thumbnails
}

// Results come one by one. Leaving the loop ends the function.
func ExampleStreamFunction_Call() {
	pool, err := dayfly.NewPool(dayfly.Local(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for word, err := range Words.Call(context.Background(), pool, "one two three four") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(word)
		if word == "three" {
			break
		}
	}
	// Output:
	// one
	// two
	// three
}

// Files go there and back without being held in memory, and progress comes while the function works.
func ExampleFunc_files() {
	pool, err := dayfly.NewPool(dayfly.Local(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	watched := Resize.With(&dayfly.CallOptions{
		OnProgress: func(p dayfly.Progress) { fmt.Printf("%.0f %% %s\n", 100*p.Fraction, p.Text) },
	})
	small, err := watched.Call(context.Background(), pool, Picture{
		Name: "cat.png",
		Data: io.NopCloser(strings.NewReader("a picture of a cat")), // or an *os.File
	})
	if err != nil {
		log.Fatal(err)
	}
	defer small.Data.Close()
	fmt.Print(small.Name, ": ")
	if _, err := io.Copy(os.Stdout, small.Data); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 50 % half of it
	// small cat.png: a pic
}

// The function's own error is told apart from the failure to run it.
func ExampleRemoteError() {
	pool, err := dayfly.NewPool(dayfly.Local(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	_, err = Find.Call(context.Background(), pool, "unicorn")
	if remote, ok := errors.AsType[*dayfly.RemoteError](err); ok {
		fmt.Println(remote.Function, "says:", remote)
		fmt.Println("not found:", errors.Is(err, fault.NotFound))
	}
	if failed, ok := errors.AsType[*dayfly.CallError](err); ok {
		fmt.Println("it was not run, or may have been:", failed.Ran)
	}
	// Output:
	// example/find says: there is no unicorn: not_found
	// not found: true
}

// A service occupies a slot until its handle is closed.
func ExampleFunction_Place() {
	pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	listening, err := Listen.Place(context.Background(), pool, "orders")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("in use:", pool.Stats().InUse)
	listening.Close()
	<-listening.Done()
	fmt.Println("in use:", pool.Stats().InUse)
	// Output:
	// in use: 1
	// in use: 0
}

// Nobody waits for a cast. What it fails with goes to OnError.
func ExampleFunction_Cast() {
	failed := make(chan error)
	pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{OnError: func(err error) { failed <- err }})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := Find.Cast(context.Background(), pool, "dragon"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-failed)
	// Output: there is no dragon: not_found
}

// Ten web servers share warm runners that a Dayfly server keeps. Each has a pool over the same fleet.
func ExampleClient_Fleet() {
	client, err := dayfly.NewClient("http://127.0.0.1:7700", &dayfly.ClientOptions{Token: os.Getenv("DAYFLY_TOKEN")})
	if err != nil {
		log.Fatal(err)
	}
	fleet := client.Fleet("thumbnails", "docker", &dayfly.FleetOptions{Min: 2, Max: 20})
	pool, err := dayfly.NewPool(fleet, &dayfly.PoolOptions{Concurrency: 4})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	picture, err := Thumbnail.Call(context.Background(), pool, Video{})
	fmt.Println(picture, err)
}

// Video and thumbnail stand for what a program has of its own.
type Video struct{ Data []byte }

func thumbnail(context.Context, Video) (Picture, error) { return Picture{}, nil }

var Thumbnail = dayfly.Func("thumbnail", thumbnail) // func(ctx, Video) (Picture, error)

// The program calls dayfly.Main first of all in main, and then makes a pool and calls the function.
func ExampleNewPool_onThisComputer() {
	ctx, video := context.Background(), Video{}
	pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Max: 10, Concurrency: 5})
	if err != nil {
		log.Fatal(err)
	}
	picture, err := Thumbnail.Call(ctx, pool, video)
	fmt.Println(picture, err, pool.Close())
}
