package e2e_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/deploy/demo/sample/samplev1"
	"github.com/mpegate/mpegate/e2e/harness"
)

// TestPricesFollowTheRegistry publishes other prices while the service is sold.
func TestPricesFollowTheRegistry(t *testing.T) {
	world := harness.New(t, harness.Options{})
	client := world.Client()
	p := world.OpenChannel(1000 * harness.Price)
	if _, err := client.Echo(paying(t, p, harness.Price), &samplev1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	world.Reprice(`[{"default": true, "price_model": "fixed_price_per_method", "package_name": "sample.v1", "details": [
		{"service_name": "Sample", "method_pricing": [{"method_name": "Echo", "price_in_cogs": 7}]}]}]`)
	signed := uint64(harness.Price)
	harness.Eventually(t, "the new price is asked", func() (bool, string) {
		_, err := client.Echo(paying(t, p, signed+7), &samplev1.EchoRequest{})
		if err == nil {
			signed += 7
		}
		return err == nil, status.Convert(err).Message()
	})
	expectBooks(t, world, p, signed, signed)
	stream, err := client.Count(paying(t, p, signed+harness.Price), &samplev1.CountRequest{Count: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	expectCode(t, err, codes.PermissionDenied) // this method has no price now
	expectBooks(t, world, p, signed, signed)
}
