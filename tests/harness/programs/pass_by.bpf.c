/* A program of a route that lets all packets pass: `ip route add ... encap bpf out obj FILE`. */
__attribute__((section("lwt_out"), used)) int pass(void *packet)
{
	return 0;
}

char terms[] __attribute__((section("license"), used)) = "MIT";
