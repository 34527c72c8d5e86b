export { chsGeometry, type Geometry } from "./geometry.js";
export { hasFooterCookie, parseFooter } from "./footer.js";
export { isExactFixedFooter, readFooterPlaces, type VhdKind } from "./survey.js";
export { createVhd, type CreateVhdOptions, openVhd, type OpenVhdOptions } from "./vhd-image.js";
export { checkVhd, describeVhd, type VhdDescription } from "./vhd-report.js";
