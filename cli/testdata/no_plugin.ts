// A module that is not a device.

export default { name: "almost" };
