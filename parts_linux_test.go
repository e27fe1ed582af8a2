package dayfly_test

import "os"

// playPart makes this process what a test has started it as, if one has, and does not return then.
func playPart() {
	if os.Getenv("TEST_SERVER") != "" {
		serve()
	}
	if os.Getenv("TEST_ECHO") != "" {
		echoServer()
	}
	if os.Getenv("TEST_PARENT") != "" {
		orphan()
	}
	if dir := os.Getenv("TEST_DETACHER"); dir != "" {
		detacher(dir)
	}
	takePart()
}
