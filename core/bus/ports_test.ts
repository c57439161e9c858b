import { assertEquals, assertThrows } from "@std/assert";
import { MachineError } from "../plugin.ts";
import { Ports } from "./ports.ts";

const owner = (id: string) => ({ id, plugin: id });

function controller(ports: Ports, id: string, count: number) {
  const plugged: [number, unknown][] = [];
  ports.view(owner(id)).provide("sata", count, (port, device) => {
    plugged.push([port, device]);
  });
  return plugged;
}

Deno.test("plug takes the first free port of the controllers in order", () => {
  const ports = new Ports();
  const first = controller(ports, "a", 1);
  const second = controller(ports, "b", 2);
  const plug = (id: string) => ports.view(owner(id)).plug("sata", id);
  assertEquals(plug("x"), { controller: "a", port: 0 });
  assertEquals(plug("y"), { controller: "b", port: 0 });
  assertEquals(plug("z"), { controller: "b", port: 1 });
  assertEquals(first, [[0, "x"]]);
  assertEquals(second, [[0, "y"], [1, "z"]]);
  assertThrows(
    () => plug("w"),
    MachineError,
    'device "w": every sata port of "a", "b" is taken: add a controller',
  );
});

Deno.test("plug takes the place of the device of the same id", () => {
  const ports = new Ports();
  const plugged = controller(ports, "a", 2);
  const view = ports.view(owner("x"));
  view.plug("sata", "old", { port: 1 });
  assertEquals(view.plug("sata", "new", { port: 1 }), {
    controller: "a",
    port: 1,
  });
  assertEquals(plugged, [[1, "old"], [1, "new"]]);
});

Deno.test("plug refuses a place that is not there or is taken", () => {
  const ports = new Ports();
  const refused = (place: object, message: string) =>
    assertThrows(
      () => ports.view(owner("x")).plug("sata", "x", place),
      MachineError,
      message,
    );
  refused({}, 'device "x": there is no sata controller before it');
  controller(ports, "a", 2);
  refused({ controller: "b" }, 'no sata controller "b" before it: the machine');
  refused({ port: 2 }, 'port 2 of "a": it has ports 0 to 1');
  ports.view(owner("y")).plug("sata", "y", { port: 1 });
  refused({ port: 1 }, 'port 1 of "a" is taken by "y"');
});

Deno.test("unplug frees the port and tells the controller", () => {
  const ports = new Ports();
  const plugged = controller(ports, "a", 1);
  ports.view(owner("x")).plug("sata", "x");
  ports.unplug(owner("x"));
  ports.view(owner("y")).plug("sata", "y");
  assertEquals(plugged, [[0, "x"], [0, null], [0, "y"]]);
});
